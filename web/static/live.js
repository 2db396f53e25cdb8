// The list of traces, live: rows come ready from the server and are put on top.
"use strict";
(() => {
  const bar = document.querySelector("[data-live]");
  const table = document.querySelector("table.traces tbody");
  if (!bar || !table) return;
  const says = bar.querySelector("[data-live-says]");
  const button = bar.querySelector("[data-live-pause]");
  const ROWS_MAX = 200;
  let source = null, waiting = [], paused = false;

  const put = (rows) => {
    const template = document.createElement("template");
    template.innerHTML = rows;
    table.prepend(template.content);
    while (table.rows.length > ROWS_MAX) table.deleteRow(-1);
  };
  const open = () => {
    source = new EventSource(bar.dataset.live);
    source.addEventListener("rows", (event) => {
      if (paused) { waiting.push(event.data); waiting = waiting.slice(-20); } else put(event.data);
    });
    source.addEventListener("stop", (event) => { source.close(); says.textContent = event.data; button.textContent = "Go on"; paused = true; });
  };
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on" : "Pause";
    if (paused) { says.textContent = "Paused."; return; }
    waiting.forEach(put);
    waiting = [];
    says.textContent = "New requests appear at the top as they are analysed.";
    if (source.readyState === EventSource.CLOSED) open();
  });
  // A tab that nobody looks at asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else if (!paused) open();
  });
  open();
})();
