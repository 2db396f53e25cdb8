// Enhances the page of a trace; everything also works without: no page loads, zoom by dragging, keys.
"use strict";
(() => {
  const $ = (selector, of = document) => of.querySelector(selector);
  const all = (selector, of = document) => [...of.querySelectorAll(selector)];
  const table = () => $("table.wf");
  const params = (href) => new URL(href, location.href).searchParams;

  // ---------- one page after the other, without loading: only what differs is put in place ----------
  let asked = 0;
  const fetched = async (href) => {
    const mine = ++asked;
    const answer = await fetch(href);
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    return mine === asked ? page : null;   // null: something else was asked for meanwhile
  };
  // `how`: push (a step that "back" takes back), replace, or none.
  const go = async (href, how = "push", quiet = false) => {
    try {
      const page = await fetched(href);
      if (!page) return;
      const fresh = $("#view", page);
      if (!fresh) throw new Error("no view");
      const focused = document.activeElement;
      const row = focused?.closest?.("table.wf tr")?.id, label = focused?.dataset?.go, field = focused?.id;
      const typed = field === "in" ? [focused.value, focused.selectionStart] : null;
      $("#view").replaceWith(fresh);
      document.title = page.title;
      if (how === "push") history.pushState(null, "", href);
      else if (how === "replace") history.replaceState(null, "", href);
      begin();
      const back = (row && document.getElementById(row))
        || (label && $(`[data-go="${CSS.escape(label)}"]`)) || (field && document.getElementById(field));
      if (back) back.focus({ preventScroll: quiet });
      if (typed && back) { back.value = typed[0]; back.setSelectionRange(typed[1], typed[1]); }
      if (!quiet) reveal();
    } catch (error) { console.warn(error); location.assign(href); }
  };
  addEventListener("popstate", () => go(location.href, "none"));

  // The panel of one span alone.
  const select = (row) => {
    for (const it of all("table.wf [aria-selected]")) it.removeAttribute("aria-selected");
    row?.setAttribute("aria-selected", "true");
  };
  const show = async (href, row) => {
    const side = $("aside.side");
    if (!side) { go(href); return; }
    const part = new URL(href, location.href);
    part.searchParams.set("part", "details");
    try {
      const page = await fetched(part);
      if (!page) return;
      const fresh = $("aside.side", page);
      side.replaceWith(fresh);
      select(row ?? document.getElementById("s-" + params(href).get("span")));
      history.pushState(null, "", href);
      if (matchMedia("(max-width: 960px)").matches) fresh.scrollIntoView({ block: "start" });
    } catch (error) { console.warn(error); location.assign(href); }
  };
  document.addEventListener("click", (e) => {
    if (e.defaultPrevented || e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    const link = e.target.closest("#view a");
    const href = link?.getAttribute("href");
    if (!href?.startsWith("?")) return;
    e.preventDefault();
    const spans = link.matches("a[data-span], .wf a[data-row]");
    const same = ["root", "find", "colour"].every((it) => params(href).get(it) === params(location.href).get(it));
    // Zooming by script has changed the address since the links were written.
    const there = new URL(href, location.href);
    if (!link.closest(".mini") && !["all"].includes(link.dataset.go)) keepZoom(there.searchParams);
    if (spans && same && params(href).has("span") && table()) show(there.search, link.closest("tr"));
    else go(there.search || location.pathname);
  });
  document.addEventListener("change", (e) => { if (e.target.closest("[data-only]")) e.target.form.requestSubmit(); });
  document.addEventListener("submit", (e) => {
    if (!e.target.closest(".tools")) return;
    e.preventDefault();
    const query = new URLSearchParams(new FormData(e.target));
    keepZoom(query);
    go("?" + query);
  });

  // ---------- zoom: the drawings are nested, so one attribute scales a row ----------
  let start_ns, length_ns, unit, unit_ns;
  let from, to;   // what is looked at, as shares of the axis
  const begin = () => {
    const it = table();
    if (!it) return;
    rove($("tr[aria-selected]", it.tBodies[0]) ?? it.tBodies[0].rows[0]);
    [start_ns, length_ns, from, to] = it.dataset.axisNs.split(" ").map(Number);
    unit = it.dataset.unit; unit_ns = +it.dataset.unitNs;
    from = (from - start_ns) / length_ns; to = (to - start_ns) / length_ns;
  };
  const offsets = () => [Math.max(0, Math.round(start_ns + from * length_ns)), Math.round(start_ns + to * length_ns)];
  const isWhole = () => from <= 0 && to >= 1;
  const keepZoom = (query) => {
    if (!table()) return;
    if (isWhole()) { query.delete("from"); query.delete("to"); return; }
    const [a, b] = offsets();
    query.set("from", a); query.set("to", b);
  };
  // One stop for the Tab key: the row that is or was focused last, and what is in it.
  let here = null;
  const rove = (row) => {
    const links = (of) => all("a", of);
    if (!here?.isConnected) {
      for (const it of all("table.wf tbody tr")) { it.tabIndex = -1; for (const link of links(it)) link.tabIndex = -1; }
    } else { here.tabIndex = -1; for (const link of links(here)) link.tabIndex = -1; }
    here = row;
    if (row) { row.tabIndex = 0; for (const link of links(row)) link.tabIndex = 0; }
  };
  document.addEventListener("focusin", (e) => {
    const row = e.target.closest("table.wf tbody tr");
    if (row && row !== here) rove(row);
  });
  let settling;
  const draw = () => {
    asked++;   // what is on its way would undo this
    const scale = 1 / (to - from);
    for (const it of all("table.wf .z")) {
      it.setAttribute("x", (-from * scale * 100) + "%");
      it.setAttribute("width", (scale * 100) + "%");
    }
    const labels = [...$("[data-axis]").children];
    const step = (to - from) * length_ns / labels.length / unit_ns;
    const digits = isWhole() ? 0 : Math.min(9, Math.max(0, Math.ceil(1 - Math.log10(step))));
    labels.forEach((it, at) => {
      const value = from * length_ns / unit_ns + step * at;
      it.textContent = (isWhole() ? +value.toPrecision(6) : value.toFixed(digits)) + (at === labels.length - 1 ? " " + unit : "");
    });
    shade();
    clearTimeout(settling);
    settling = setTimeout(settle, 250);
  };
  const shade = () => {
    const svg = $(".mini > svg");
    for (const it of all(".shade", svg)) it.remove();
    for (const [x, width] of [[0, from], [to, 1 - to]]) {
      if (width > 0) rect(svg, "shade", x, width);
    }
  };
  const rect = (svg, name, x, width) => {
    const it = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    it.setAttribute("class", name);
    it.setAttribute("x", x * 100 + "%"); it.setAttribute("width", width * 100 + "%"); it.setAttribute("height", "42");
    svg.append(it);
    return it;
  };
  // The address follows; what the server would draw finer or choose anew comes from it.
  const settle = () => {
    if (!table()) return;
    const query = new URLSearchParams(location.search);
    keepZoom(query);
    const href = "?" + query;
    if (href !== (location.search || "?")) history.replaceState(null, "", href);
    go(href, "none", true);
  };
  const zoomTo = (a, b) => {
    const width = Math.min(1, Math.max(1e-4, b - a));
    from = Math.max(0, Math.min(1 - width, (a + b) / 2 - width / 2));
    to = from + width;
    draw();
  };
  const zoom = (factor) => zoomTo((from + to) / 2 - (to - from) * factor / 2, (from + to) / 2 + (to - from) * factor / 2);
  const pan = (share) => { const by = share * (to - from); zoomTo(from + by, to + by); };

  // Drag over the bars or over the overview to look closer.
  let grip = null;
  const share = (e) => {
    const box = $(grip.mini ? ".mini" : "[data-axis]").getBoundingClientRect();
    const at = Math.max(0, Math.min(1, (e.clientX - box.left) / box.width));
    return grip.mini ? at : from + (to - from) * at;
  };
  document.addEventListener("pointerdown", (e) => {
    const mini = Boolean(e.target.closest(".mini"));
    if (e.button || !(mini || e.target.closest("table.wf td.b"))) return;
    grip = { mini };
    grip.start = share(e); grip.x = e.clientX;
    if (mini) grip.brush = rect($(".mini > svg"), "brush", grip.start, 0);
  });
  document.addEventListener("pointermove", (e) => {
    if (!grip?.brush) return;
    const [a, b] = [grip.start, share(e)].sort((x, y) => x - y);
    grip.brush.setAttribute("x", a * 100 + "%"); grip.brush.setAttribute("width", (b - a) * 100 + "%");
  });
  let dragged = false;
  addEventListener("pointerup", (e) => {
    if (!grip) return;
    const [a, b] = [grip.start, share(e)].sort((x, y) => x - y);
    dragged = Math.abs(e.clientX - grip.x) > 4;
    grip.brush?.remove();
    grip = null;
    if (dragged) zoomTo(a, b);
  });
  // The links of the overview follow a click, not a drag.
  document.addEventListener("click", (e) => { if (dragged && e.target.closest(".mini")) e.preventDefault(); dragged = false; }, true);
  document.addEventListener("dragstart", (e) => { if (e.target.closest(".mini")) e.preventDefault(); });
  document.addEventListener("dblclick", (e) => { if (e.target.closest("td.b")) zoomTo(0, 1); });

  // ---------- copying ----------
  const copied = async (button, text) => {
    const label = button.textContent;
    let done = true;
    try { await navigator.clipboard.writeText(text); }
    catch {   // Not a secure context, or refused: the old way, else say so.
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      done = document.execCommand("copy");
      field.remove();
    }
    button.textContent = done ? "Copied" : "Not allowed";
    setTimeout(() => { button.textContent = label; }, 1200);
  };
  document.addEventListener("click", (e) => {
    const value = e.target.closest("[data-copy-value]");
    if (value) copied(value, value.previousElementSibling.textContent);
    const curl = e.target.closest("[data-copy-curl]");
    if (curl) copied(curl, `curl -s '${location.origin}${curl.dataset.copyCurl}'`);
    const text = e.target.closest("[data-copy]");
    if (text) {
      e.stopImmediatePropagation();
      copied(text, document.getElementById(text.dataset.copy)?.textContent ?? text.dataset.copy);
    }
  }, true);

  // ---------- keys; never while somebody types, nor when a modifier belongs to the browser ----------
  const rows = () => all("table.wf tbody tr");
  const current = () => document.activeElement?.closest("table.wf tbody tr");
  const focusRow = (row) => {
    row?.focus({ preventScroll: true });
    row?.scrollIntoView({ block: "nearest" });
  };
  const step = (by) => {
    const list = rows(), focused = current();
    const at = list.indexOf(focused ?? $("table.wf tr[aria-selected]"));
    const next = focused ? at + by : Math.max(at, 0);
    focusRow(list[Math.max(0, Math.min(list.length - 1, next))]);
  };
  // As in every tree grid: to the right opens, then goes in; to the left closes, then goes out.
  const inOrOut = (by) => {
    const row = current(), list = rows();
    const expanded = row.getAttribute("aria-expanded");
    if (expanded === (by > 0 ? "false" : "true")) { row.querySelector("a.tw").click(); return; }
    const level = +row.getAttribute("aria-level"), at = list.indexOf(row);
    if (by > 0) { if (expanded) step(1); return; }
    for (let up = at - 1; up >= 0; up--) {
      if (+list[up].getAttribute("aria-level") < level) { focusRow(list[up]); return; }
    }
  };
  const press = (key) => $(`[data-go="${CSS.escape(key)}"]`)?.click();
  const page = (by) => scrollBy({ top: by * (innerHeight - 120) });
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("select, textarea, dialog[open]")) return;
    if (e.target.closest("input")) {
      if (e.key === "Escape") e.target.blur();
      // The same text again: on to the next one.
      if (e.key === "Enter" && e.target.id === "in" && e.target.value && e.target.value === params(location.href).get("find")) {
        e.preventDefault();
        press(e.shiftKey ? "N" : "n");
      }
      return;
    }
    const row = current();
    const onRow = row && row === document.activeElement;
    const far = e.shiftKey ? 4 : 1;
    const list = rows();
    const wide = table() ? {
      "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), _: () => zoom(1 / 0.7), 0: () => zoomTo(0, 1),
      a: () => pan(-0.25), A: () => pan(-1), d: () => pan(0.25), D: () => pan(1),
      ArrowLeft: () => pan(-0.25 * far), ArrowRight: () => pan(0.25 * far),
      ...(e.shiftKey ? { ArrowUp: () => zoom(0.5), ArrowDown: () => zoom(2) } : {}),
      w: () => page(-1), s: () => page(1),
      j: () => step(1), f: () => step(1), k: () => step(-1), b: () => step(-1),
      "[": () => press("["), "]": () => press("]"), o: () => press("o"), p: () => press("p"),
      Escape: () => { if (isWhole()) press("clear"); else zoomTo(0, 1); },
      ...(onRow ? { Enter: () => row.querySelector("a[data-row]").click(), Home: () => focusRow(list[0]), End: () => focusRow(list[list.length - 1]) } : {}),
      ...(row && !e.shiftKey ? { ArrowDown: () => step(1), ArrowUp: () => step(-1), ArrowRight: () => inOrOut(1), ArrowLeft: () => inOrOut(-1) } : {}),
    } : {};
    const keys = {
      ...wide,
      "/": () => $("#in")?.focus(),
      n: () => press("n"),
      N: () => press("N"),
    };
    const views = /^[1-9]$/.test(e.key) && all("a[data-view]")[e.key - 1];
    const action = views ? () => views.click() : keys[e.key];
    if (!action) return;
    e.preventDefault();
    e.stopImmediatePropagation();
    action();
  }, true);

  // Without an anchor the browser stays at the top: bring the selected row into sight.
  const reveal = () => {
    if (!params(location.href).has("span") || location.hash) return;
    const row = $("table.wf tr[aria-selected]");
    const box = row?.getBoundingClientRect();
    if (box && (box.top > innerHeight - 40 || box.top < 60)) row.scrollIntoView({ block: "center" });
  };
  begin();
  reveal();
})();
