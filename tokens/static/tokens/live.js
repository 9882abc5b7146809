"use strict";

// The parts of a page that say data-live="yes", and have an id, are asked for again every few
// seconds, for as long as what comes back says so too. Without it the page is the same,
// and is loaded anew by hand.

(() => {
  const EVERY = 2000;
  const LONGEST = 30000;
  let wait = EVERY;

  async function renew() {
    const answer = await fetch(window.location.href, {
      credentials: "same-origin",
      // Nobody is there by that: a session that is not used ends (tokens/admin/sessions.py).
      headers: { "X-Asked-By-Itself": "yes" },
    });
    if (!answer.ok || answer.redirected) {
      throw new Error(`answered ${answer.status}`);
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll('[data-live="yes"]')) {
      const newer = page.getElementById(part.id);
      if (newer === null) {
        part.dataset.live = "no";
      } else if (newer.outerHTML !== part.outerHTML) {
        const focused = part.contains(document.activeElement)
          ? document.activeElement.getAttribute("href")
          : null;
        part.replaceWith(document.adoptNode(newer));
        if (focused !== null) {
          newer.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
        }
      }
    }
  }

  async function goOn() {
    if (!document.hidden) {
      try {
        await renew();
        wait = EVERY;
      } catch {
        wait = Math.min(2 * wait, LONGEST);
      }
    }
    if (document.querySelector('[data-live="yes"]') !== null) {
      window.setTimeout(goOn, wait);
    }
  }

  if (document.querySelector('[data-live="yes"]') !== null) {
    window.setTimeout(goOn, wait);
  }
})();
