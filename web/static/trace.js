// Enhances the page of a trace; everything also works without: details without a page load, zoom, keys.
"use strict";
const views = [...document.querySelectorAll("a[data-view]")];
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, select, textarea, dialog")) return;
  if (/^[1-9]$/.test(e.key)) views[e.key - 1]?.click();
});

(() => {
  const table = document.querySelector("table.wf");
  if (!table) return;
  const rows = () => [...table.querySelectorAll("tbody tr")];

  // ---------- details: fetch the panel alone ----------
  const select = (row) => {
    for (const it of table.querySelectorAll("[aria-selected]")) it.removeAttribute("aria-selected");
    row?.setAttribute("aria-selected", "true");
  };
  let asked = 0;
  const show = async (href, row, keep) => {
    const side = document.querySelector("aside.side");
    if (!side) { location.assign(href); return; }
    const mine = ++asked;
    const part = new URL(href, location.href);
    part.searchParams.set("part", "details");
    try {
      const answer = await fetch(part);
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      if (mine !== asked) return;   // another span was chosen meanwhile
      const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("aside.side");
      side.replaceWith(fresh);
      select(row ?? document.getElementById("s-" + new URL(href, location.href).searchParams.get("span")));
      if (!keep) history.pushState(null, "", href);
      if (matchMedia("(max-width: 960px)").matches) fresh.scrollIntoView({ block: "start" });
    } catch { location.assign(href); }
  };
  document.addEventListener("click", (e) => {
    if (e.defaultPrevented || e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
    const link = e.target.closest("a[data-span], .wf a[data-row]");
    const row = link?.closest("tr");
    const href = link?.getAttribute("href");
    if (!href || !new URL(href, location.href).searchParams.has("span")) return;
    const here = new URL(location.href), there = new URL(href, location.href);
    if (here.searchParams.get("root") !== there.searchParams.get("root")) return;
    e.preventDefault();
    show(href, row, false);
  });
  addEventListener("popstate", () => location.reload());

  // ---------- zoom: the drawings are nested, so one attribute scales a row ----------
  const axis = table.querySelector("[data-axis]");
  const labels = [...axis.children].map((it) => it.textContent);
  const unit = labels.at(-1).replace(/^[\d.e+-]+/, "");
  const step = labels.length > 1 ? parseFloat(labels[1]) : parseFloat(labels[0]) || 1;
  const whole = step * labels.length;
  let from = 0, to = 1;             // what is in sight, as shares of the axis
  const draw = () => {
    const scale = 1 / (to - from);
    for (const it of table.querySelectorAll(".z")) {
      it.setAttribute("x", (-from * scale * 100) + "%");
      it.setAttribute("width", (scale * 100) + "%");
    }
    const whole_view = from === 0 && to === 1;
    [...axis.children].forEach((it, at) => {
      const value = whole * (from + (to - from) * at / labels.length);
      const last = at === labels.length - 1 ? unit : "";
      it.textContent = whole_view ? labels[at] : +value.toPrecision(4) + last;
    });
  };
  const zoom = (factor, middle) => {
    const width = Math.min(1, Math.max(1e-4, (to - from) * factor));
    const at = middle ?? (from + to) / 2;
    from = Math.max(0, Math.min(1 - width, at - (at - from) * width / (to - from)));
    to = from + width;
    draw();
  };
  const pan = (share) => {
    const width = to - from;
    from = Math.max(0, Math.min(1 - width, from + share * width));
    to = from + width;
    draw();
  };
  // Drag over the bars to look closer.
  let start = null;
  const share = (e) => {
    const box = axis.getBoundingClientRect();
    return from + (to - from) * Math.max(0, Math.min(1, (e.clientX - box.left) / box.width));
  };
  table.addEventListener("pointerdown", (e) => { if (e.target.closest("td.b")) start = share(e); });
  addEventListener("pointerup", (e) => {
    if (start === null) return;
    const [a, b] = [start, share(e)].sort((x, y) => x - y);
    start = null;
    if (b - a > (to - from) * 0.01) { from = a; to = b; draw(); }
  });
  table.addEventListener("dblclick", (e) => { if (e.target.closest("td.b")) { from = 0; to = 1; draw(); } });

  // ---------- keys; j, k and Enter are the same on all pages ----------
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, select, textarea, dialog")) return;
    const row = document.activeElement?.closest("tr") ?? table.querySelector("[aria-selected]");
    const twist = row?.querySelector("a.tw");
    const open = row?.getAttribute("aria-expanded") === "true";
    if (e.key === "w") zoom(0.7);
    else if (e.key === "s") zoom(1 / 0.7);
    else if (e.key === "a") pan(-0.25);
    else if (e.key === "d") pan(0.25);
    else if (e.key === "[" && twist && open) twist.click();
    else if (e.key === "]" && twist && !open) twist.click();
    else if (e.key === "Escape" && (from > 0 || to < 1)) { from = 0; to = 1; draw(); }
  });

  // Without an anchor the browser stays at the top: bring the selected row into sight.
  if (new URLSearchParams(location.search).has("span") && !location.hash) {
    const row = rows().find((it) => it.hasAttribute("aria-selected"));
    const box = row?.getBoundingClientRect();
    if (box && box.top > innerHeight) row.scrollIntoView({ block: "center" });
  }
})();
