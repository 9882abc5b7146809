"use strict";

// The parts of a page that say data-live="yes", and have an id, are asked for again every few
// seconds, for as long as what comes back says so too. Without it the page is the same,
// and is loaded anew by hand. Where a part says data-then="reload", the whole page is loaded once
// more when that is over: what stands around its parts has changed as well.

(() => {
  const EVERY = 2000;
  const LONGEST = 30000;
  // The page is not this operator's any more, or is gone.
  const FINAL = [401, 403, 404];
  let wait = EVERY;

  const living = () => document.querySelectorAll('[data-live="yes"]');

  function end(parts) {
    for (const part of parts) {
      part.dataset.live = "no";
    }
    if (parts.some((part) => part.dataset.then === "reload")) {
      window.location.reload();
    }
  }

  async function renew() {
    const answer = await fetch(window.location.href, {
      credentials: "same-origin",
      // Nobody is there by that: a session that is not used ends (tokens/admin/sessions.py).
      headers: { "X-Asked-By-Itself": "yes" },
    });
    const parts = [...living()];
    if (answer.redirected || FINAL.includes(answer.status)) {
      end(parts);
      return;
    }
    if (!answer.ok) {
      throw new Error(`answered ${answer.status}`);
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts) {
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
    if (living().length === 0) {
      end(parts);
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
    if (living().length > 0) {
      window.setTimeout(goOn, wait);
    }
  }

  if (living().length > 0) {
    window.setTimeout(goOn, wait);
  }
})();
