// Enhances only: every page works without it. Theme, copying, keys.
"use strict";
const root = document.documentElement;
root.classList.add("js");
const chosen = localStorage.getItem("theme");
if (chosen) root.dataset.theme = chosen;

addEventListener("DOMContentLoaded", () => {
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-toggle-theme]")) {
      root.dataset.theme = isDark() ? "light" : "dark";
      localStorage.setItem("theme", root.dataset.theme);
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) copyFrom(copy);
  });

  // data-copy holds the id of the element whose text is meant, or the text itself.
  function copyFrom(button) {
    const source = document.getElementById(button.dataset.copy);
    navigator.clipboard?.writeText(source ? source.textContent : button.dataset.copy);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  }

  // A first Escape empties the field, as the browser does; a second one leaves it.
  document.querySelector("header [type=search]")?.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.target.value) event.target.blur();
  });

  // Silent while somebody types, and while a modifier belongs to the browser.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=radio]), select, textarea")) return;
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    const keys = {
      "/": () => { event.preventDefault(); document.querySelector("[type=search]")?.focus(); },
      "?": () => document.getElementById("keys")?.showModal(),
      j: () => rows[Math.min(at + 1, rows.length - 1)]?.focus(),
      k: () => rows[Math.max(at - 1, 0)]?.focus(),
    };
    keys[event.key]?.();
  });

  // A choice in a form marked so is applied at once; without JavaScript there is the button.
  document.querySelectorAll("form[data-apply] select").forEach((select) => {
    select.addEventListener("change", () => select.form.requestSubmit());
  });
});
