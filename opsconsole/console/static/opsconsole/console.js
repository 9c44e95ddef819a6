// Local times, copying, printing, and a notice while the server is unreachable.
"use strict";

const two = (number) => String(number).padStart(2, "0");

function localTimes(root) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.dataset.local = zone;
    time.textContent =
      `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
      `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    time.title = `${time.title} → ${zone}`;
  }
}

document.addEventListener("DOMContentLoaded", () => localTimes(document));
document.addEventListener("htmx:afterSettle", () => localTimes(document));

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy || location.href);
    copy.classList.add("copied");
    setTimeout(() => copy.classList.remove("copied"), 1500);
  }
  if (event.target.closest("[data-print]")) window.print();
});

const away = (hidden) => {
  const notice = document.getElementById("server-away");
  if (notice) notice.hidden = hidden;
};
document.addEventListener("htmx:sendError", () => away(false));
document.addEventListener("htmx:responseError", () => away(false));
document.addEventListener("htmx:afterOnLoad", () => away(true));

// "/" and Ctrl-K lead to the search for an identifier.
document.addEventListener("keydown", (event) => {
  const find = document.getElementById("find");
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  const isSlash = event.key === "/" && !typing;
  const isControlK = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k";
  if (!find || !(isSlash || isControlK)) return;
  event.preventDefault();
  find.focus();
  find.select();
});

// The theme's scrolling parts all have the same name; screen readers list them by it.
window.addEventListener("load", () => {
  document.querySelectorAll(".simplebar-content-wrapper").forEach((part, place) => {
    const menu = part.closest("#nav-sidebar-apps, nav");
    part.setAttribute("aria-label", menu ? "menu" : `table ${place}`);
  });
});
