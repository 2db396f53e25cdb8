// Enhances only: a time to look at can be typed, and every time says that it is UTC. With this, dragging
// over a chart looks closer, and times can be shown in the zone of this machine.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const MINUTE = 60_000;
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const two = (number) => String(number).padStart(2, "0");

  // A chart that knows its time (data-from, data-length: ms), on a page that takes one in its address.
  if (document.getElementById("when")) document.querySelectorAll(".chart[data-from]").forEach(zoomable);

  function zoomable(chart) {
    const plot = chart.querySelector("svg.plot");
    if (!plot || !(Number(chart.dataset.length) > 0)) return;
    chart.classList.add("zoomable");
    let from = null;
    let box = null;
    const share = (event) => {
      const area = plot.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - area.left) / area.width, 0), 1);
    };
    const draw = (to) => {
      const area = plot.getBoundingClientRect();
      const within = chart.getBoundingClientRect();
      box.style.left = `${area.left - within.left + Math.min(from, to) * area.width}px`;
      box.style.width = `${Math.abs(to - from) * area.width}px`;
      box.style.top = `${area.top - within.top}px`;
      box.style.height = `${area.height}px`;
    };
    const end = () => {
      box?.remove();
      from = box = null;
    };
    // What is dragged is the time, not a link in the drawing.
    plot.addEventListener("dragstart", (event) => event.preventDefault());
    plot.addEventListener("pointerdown", (event) => {
      // A finger scrolls.
      if (event.button === 0 && event.pointerType !== "touch") from = share(event);
    });
    addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = share(event);
      const isDrag = Math.abs(to - from) * plot.getBoundingClientRect().width > 6;
      if (!box && isDrag) {
        box = document.createElement("div");
        box.className = "zoombox";
        chart.append(box);
        getSelection()?.removeAllRanges();
      }
      if (box) draw(to);
    });
    addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [first, last] = [from, share(event)].sort((a, b) => a - b);
      const dragged = box !== null;
      end();
      if (!dragged) return;
      // The click that follows is not meant for what is below.
      addEventListener("click", (click) => click.preventDefault(), { capture: true, once: true });
      setTimeout(() => look(chart, first, last));
    });
    addEventListener("pointercancel", end);
    addEventListener("keydown", (event) => { if (event.key === "Escape") end(); });
  }

  function look(chart, first, last) {
    const [start, length] = [Number(chart.dataset.from), Number(chart.dataset.length)];
    const text = (ms) => `${new Date(ms).toISOString().slice(0, 19)}Z`;
    const url = new URL(location.href);
    url.hash = "";
    url.searchParams.delete("range");
    url.searchParams.set("from", text(Math.floor((start + first * length) / MINUTE) * MINUTE));
    url.searchParams.set("to", text(Math.ceil((start + last * length) / MINUTE) * MINUTE));
    location.assign(url);
  }

  // UTC, or the zone of this machine. What is converted: times that say "UTC", and times written whole
  // where they are a row's head or begin a title. Texts of spans stay as they were sent.
  const isLocal = localStorage.getItem("zone") === "local";
  const zone = (at) => {
    const minutes = -at.getTimezoneOffset();
    const hours = Math.floor(Math.abs(minutes) / 60);
    const rest = Math.abs(minutes) % 60;
    if (minutes === 0) return "UTC";
    return `UTC${minutes < 0 ? "−" : "+"}${hours}${rest ? `:${two(rest)}` : ""}`;
  };
  document.querySelectorAll("[data-toggle-zone]").forEach((button) => {
    button.textContent = `Times in ${isLocal ? zone(new Date()) : "UTC"}`;
    button.title = isLocal ? "Show times in UTC" : "Show times in the zone of this machine";
    button.addEventListener("click", () => {
      localStorage.setItem("zone", isLocal ? "utc" : "local");
      location.reload();
    });
  });
  if (!isLocal) return;

  const CLOCK = `(?:(\\d{1,2}) (${MONTHS.join("|")}) )?(\\d\\d):(\\d\\d)(?::(\\d\\d))?`;
  const SHOWN = new RegExp(`${CLOCK}(?: to ${CLOCK})? UTC(?![+−\\d])`, "g");
  const WHOLE = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g;

  const moment = (day, month, hour, minute, second) => {
    const now = new Date();
    let at = Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate(), hour, minute, second || 0);
    if (month) {
      at = Date.UTC(now.getUTCFullYear(), MONTHS.indexOf(month), day, hour, minute, second || 0);
      // In January, December is last year's.
      if (at - now > 183 * 1440 * MINUTE) at = new Date(at).setUTCFullYear(now.getUTCFullYear() - 1);
    } else if (at - now > 60 * MINUTE) at -= 1440 * MINUTE;
    return new Date(at);
  };
  const clock = (at, hasDay, hasSeconds) => {
    const day = hasDay ? `${at.getDate()} ${MONTHS[at.getMonth()]} ` : "";
    return `${day}${two(at.getHours())}:${two(at.getMinutes())}${hasSeconds ? `:${two(at.getSeconds())}` : ""}`;
  };
  const shown = (text) => text.replace(SHOWN, (_, d1, m1, h1, n1, s1, d2, m2, h2, n2, s2) => {
    const first = moment(d1, m1, h1, n1, s1);
    const begin = clock(first, m1, s1);
    if (h2 === undefined) return `${begin} ${zone(first)}`;
    const last = moment(d2, m2, h2, n2, s2);
    return `${begin} to ${clock(last, m2, s2)} ${zone(last)}`;
  });
  const whole = (text) => text.replace(WHOLE, (it) => {
    const at = new Date(it);
    return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(at, false, true)} ${zone(at)}`;
  });

  const RAW = "pre, code, .mono, bdi, textarea, script, style";
  function convert(root) {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const changed = [];
    while (texts.nextNode()) {
      const node = texts.currentNode;
      const element = node.parentElement;
      if (!element || element.closest(RAW)) continue;
      const isHead = element.matches("th[scope=row], time") && element.childNodes.length === 1;
      const text = isHead ? whole(shown(node.data)) : shown(node.data);
      if (text !== node.data) changed.push([node, text]);
    }
    changed.forEach(([node, text]) => { node.data = text; });
    if (root.nodeType !== Node.ELEMENT_NODE) return;
    [root, ...root.querySelectorAll("[title]")].forEach((it) => {
      const title = it.getAttribute?.("title");
      if (!title) return;
      const text = /^\d{4}-/.test(title) ? whole(title) : shown(title);
      if (text !== title) it.setAttribute("title", text);
    });
  }
  convert(document.body);
  const now = new Date();
  document.querySelectorAll("[data-zone]").forEach((it) => { it.textContent = zone(now); });
  // Axes say no zone: their chart knows their time.
  document.querySelectorAll(".chart[data-from] .x").forEach((axis) => {
    const { from, length } = axis.closest(".chart").dataset;
    [...axis.children].forEach((label, at, all) => {
      const when = new Date(Number(from) + Number(length) * at / Math.max(all.length - 1, 1));
      const isClock = /^\d\d:\d\d$/.test(label.textContent);
      label.textContent = isClock ? clock(when) : `${when.getDate()} ${MONTHS[when.getMonth()]}`;
    });
  });
  // Rows that come later: the live list, a part of a trace.
  new MutationObserver((changes) => {
    changes.forEach((it) => it.addedNodes.forEach((node) => {
      if (node.nodeType === Node.ELEMENT_NODE) convert(node);
    }));
  }).observe(document.getElementById("main") ?? document.body, { childList: true, subtree: true });

  // Fields for times hold UTC in the address, and the zone's time on the page.
  const fields = [...document.querySelectorAll("input[type=datetime-local][data-utc]")];
  const local = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${clock(at)}`;
  fields.filter((it) => it.value).forEach((it) => { it.value = local(new Date(`${it.value}Z`)); });
  addEventListener("formdata", (event) => {
    fields.filter((it) => it.form === event.target && it.value).forEach((it) => {
      event.formData.set(it.name, new Date(it.value).toISOString().slice(0, 16));
    });
  });
});
