// What Unfold's pages lack for people who use a keyboard or a screen reader.
//
// Its menus open on a click on a <div>, a <span> or an <a> without an address, which no Tab
// reaches; its icons are words ("dock_to_right") that are read out; and its pages have no main
// landmark. Its templates differ between the versions that we support, and have no blocks there:
// so it is mended in the page. The words are in templates/unfold/layouts/skeleton.html.
"use strict";

(() => {
  const ICON = ".material-symbols-outlined";
  const BY_ITSELF = "a[href], button, input, select, textarea, summary, label";

  const words = () => document.querySelector("meta[name=ov-words]")?.dataset ?? {};

  // dock_to_right → dockToRight, as in data-dock-to-right.
  const word = (icon) =>
    words()[icon.textContent.trim().replace(/_(\w)/g, (_, letter) => letter.toUpperCase())];

  const textOf = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll(ICON).forEach((icon) => icon.remove());
    return copy.matches(ICON) ? "" : copy.textContent.trim();
  };

  const name = (control) => {
    if (control.ariaLabel || control.title || textOf(control)) return;
    const icon = control.matches(ICON) ? control : control.querySelector(ICON);
    const said = icon && word(icon);
    if (said) control.ariaLabel = said;
  };

  const makeButton = (element) => {
    const icon = element.matches(ICON) || element.querySelector(ICON);
    // What only catches clicks beside an open menu is nothing to be reached.
    if (element.matches(BY_ITSELF) || !(icon || textOf(element))) return;
    element.role = "button";
    element.tabIndex = 0;
    name(element);
  };

  const landmark = (selector, role, label) => {
    const element = document.querySelector(selector);
    if (!element) return;
    element.setAttribute("role", role);
    if (label) element.ariaLabel = label;
  };

  // What a click has opened, where it lies before its button or at the end of the page.
  const opened = (button) => {
    const places = [button.previousElementSibling, document.getElementById("changelist-filter")];
    for (const place of places) {
      if (!place?.matches("nav, #changelist-filter")) continue;
      const first = [...place.querySelectorAll("a, button, select, input")].find(
        (control) => control.tabIndex >= 0 && control.checkVisibility(),
      );
      if (first) return first;
    }
    return null;
  };

  const press = (event) => {
    const button = event.target;
    if (!(button instanceof Element) || button.getAttribute("role") !== "button") return;
    if (button.matches(BY_ITSELF) || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    button.click();
    // Alpine shows what was opened in a later frame.
    requestAnimationFrame(() => requestAnimationFrame(() => opened(button)?.focus()));
  };

  // Escape closes the account's menu, as it does the filters, and goes back to its button.
  const leave = (event) => {
    if (event.key !== "Escape") return;
    const menu = document.activeElement?.closest("nav");
    const button = menu?.nextElementSibling;
    if (button?.getAttribute("role") !== "button") return;
    button.click();
    button.focus();
  };

  const followTheSystem = () => {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (dark) => {
      const chosen = localStorage.getItem("adminTheme") ?? '"auto"';
      if (chosen === '"auto"') document.documentElement.classList.toggle("dark", dark.matches);
    });
  };

  // What others draw once the page is loaded, after which this has its turn.
  const mendWhatIsDrawn = () => {
    // Django's boxes for choosing several: a name on what has no role.
    for (const icon of document.querySelectorAll("span[aria-label]:not([role])")) icon.role = "img";
    // SimpleBar: landmarks that are all called "scrollable content".
    for (const bar of document.querySelectorAll(".simplebar-content-wrapper[role=region]")) {
      bar.role = bar.ariaLabel = null;
    }
  };
  addEventListener("load", () => setTimeout(mendWhatIsDrawn));

  document.addEventListener("DOMContentLoaded", () => {
    landmark("#main", "main");
    landmark("#page:not(:has(#main))", "main");
    landmark("#nav-sidebar-inner", "navigation", words().sidebar);
    document.getElementById("content")?.setAttribute("tabindex", "-1");
    document.querySelectorAll("[x-on\\:click]").forEach(makeButton);
    document.querySelectorAll("a[href], button").forEach(name);
    for (const icon of document.querySelectorAll(ICON)) {
      if (icon.role !== "button") icon.ariaHidden = "true";
    }
    document.addEventListener("keydown", press);
    document.addEventListener("keydown", leave);
    followTheSystem();
  });
})();
