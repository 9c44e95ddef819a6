// Copying, printing, and a notice while the server is unreachable.
"use strict";

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

// The theme attaches clicks to parts that no key reaches. They become buttons. Names of its icons are not words.
function reachable(root) {
  for (const icon of root.querySelectorAll(".material-symbols-outlined")) {
    const control = icon.closest("a, button, [x-on\\:click]");
    const hasName = !control || control.title || control.ariaLabel || control.textContent.trim() !== icon.textContent.trim();
    if (hasName && control !== icon) icon.ariaHidden = "true";
  }
  for (const part of root.querySelectorAll("[x-on\\:click]")) {
    if (part.matches("a[href], button, input, select, textarea, summary") || !part.textContent.trim()) continue;
    part.tabIndex = 0;
    part.role = "button";
    if (part.matches(".material-symbols-outlined") && !part.title) part.ariaLabel = words("menu");
  }
}

const words = (name) => document.getElementById("page")?.dataset[name] || name;

document.addEventListener("keydown", (event) => {
  const isButton = event.target.matches?.("[role=button]:not(a[href], button)");
  if (!isButton || !["Enter", " "].includes(event.key)) return;
  event.preventDefault();
  event.target.click();
});

// A part that scrolls has a name, and keys scroll it.
const SCROLLING = ".simplebar-content-wrapper, .scroll-x, .roomy > div > div";

function scrollable() {
  document.querySelectorAll(SCROLLING).forEach((part, place) => {
    if (part.matches(".simplebar-content-wrapper")) {
      part.ariaLabel = part.closest("#nav-sidebar-apps, nav") ? words("menu") : `${words("table")} ${place}`;
    } else if (part.scrollWidth > part.clientWidth && !part.hasAttribute("tabindex")) {
      part.tabIndex = 0;
      part.role = "region";
      part.ariaLabel = `${words("table")} ${place}`;
    }
  });
}

// Controls that scripts draw over a select have its name.
function named() {
  for (const drawn of document.querySelectorAll(".select2-selection")) {
    const select = drawn.closest(".select2")?.previousElementSibling;
    const label = select?.labels?.[0]?.textContent.trim();
    if (!label) continue;
    for (const part of [drawn, drawn.querySelector("[role=textbox]")]) part?.setAttribute("aria-label", label);
  }
}

window.addEventListener("load", () => {
  reachable(document);
  scrollable();
  named();
  // After a refused form, reading continues at the reason.
  const refusal = document.querySelector("[data-refused], .errornote, .errorlist");
  if (refusal) {
    refusal.tabIndex = -1;
    refusal.focus();
  }
});
window.addEventListener("resize", scrollable);
document.addEventListener("htmx:afterSettle", (event) => {
  reachable(event.target);
  scrollable();
});
