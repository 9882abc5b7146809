// Times in the time zone of whoever looks, with the zone named and UTC beside.
//
// A page has them in UTC and says so. Here "2026-11-22 18:20:05 UTC" becomes
// "2026-11-22 19:20:05 GMT+1", with the time in UTC as its title. The account's menu switches
// back to UTC, which is what logs and commands write; the browser remembers it.
"use strict";

(() => {
  const REMEMBERED = "oauthvault.times";
  const WRITTEN = /\b(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC\b/;
  // Where text is meant to be taken as it stands.
  const AS_IT_STANDS = "time, code, pre, script, style, svg, textarea, [data-as-it-stands]";
  const format = new Intl.DateTimeFormat("en-US", {
    year: "numeric", month: "2-digit", day: "2-digit",
    hour: "2-digit", minute: "2-digit", second: "2-digit",
    hourCycle: "h23", timeZoneName: "short",
  });
  let inUtc = false;
  try {
    inUtc = localStorage.getItem(REMEMBERED) === "utc";
  } catch {
    // A browser may keep nothing for us: then it is the person's own zone each time.
  }

  const local = (moment) => {
    const part = Object.fromEntries(format.formatToParts(moment).map((p) => [p.type, p.value]));
    return {
      date: `${part.year}-${part.month}-${part.day}`,
      time: `${part.hour}:${part.minute}:${part.second} ${part.timeZoneName}`,
    };
  };

  // What the server wrote, kept beside each <time>.
  const utc = new WeakMap();

  const show = (element) => {
    const written = utc.get(element);
    const there = local(new Date(element.dateTime));
    const shown = inUtc ? written : there;
    const other = inUtc ? there : written;
    element.title = `${other.date} ${other.time}`;
    const [date, time] = element.querySelectorAll(".ov-exact > span");
    if (time) {
      date.textContent = shown.date;
      time.textContent = shown.time;
    } else {
      element.textContent = `${shown.date} ${shown.time}`;
    }
  };

  const take = (element) => {
    if (utc.has(element) || Number.isNaN(Date.parse(element.dateTime))) return;
    const exact = element.querySelector(".ov-exact") ?? element;
    const found = WRITTEN.exec(exact.textContent.replace(/\s+/g, " "));
    if (!found) return;
    utc.set(element, { date: found[1], time: `${found[2]} UTC` });
    show(element);
  };

  // A time in the middle of a sentence gets a <time> of its own.
  const setApart = (text) => {
    for (let found; (found = WRITTEN.exec(text.data)); ) {
      const rest = text.splitText(found.index);
      const after = rest.splitText(found[0].length);
      const element = document.createElement("time");
      element.dateTime = `${found[1]}T${found[2]}Z`;
      element.textContent = found[0];
      rest.replaceWith(element);
      take(element);
      text = after;
    }
  };

  const search = (root) => {
    if (root.matches("time")) take(root);
    root.querySelectorAll("time").forEach(take);
    if (root.closest(AS_IT_STANDS)) return;
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (const text of texts) {
      if (WRITTEN.test(text.data) && !text.parentElement.closest(AS_IT_STANDS)) setApart(text);
    }
  };

  const choices = () => document.querySelectorAll("[data-times]");

  const choose = (choice) => {
    inUtc = choice === "utc";
    try {
      localStorage.setItem(REMEMBERED, choice);
    } catch {
      // As above.
    }
    document.querySelectorAll("time").forEach((element) => utc.has(element) && show(element));
    mark();
  };

  const mark = () => {
    for (const button of choices()) {
      button.setAttribute("aria-pressed", String((button.dataset.times === "utc") === inUtc));
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    const main = document.getElementById("main");
    if (!main) return;
    search(main);
    // Parts of a page that come later, as of a page that follows something in the background.
    new MutationObserver((changes) => {
      for (const change of changes) {
        for (const node of change.addedNodes) {
          if (node.nodeType === Node.ELEMENT_NODE && node.isConnected) search(node);
        }
      }
    }).observe(main, { childList: true, subtree: true });
    for (const button of choices()) {
      const zone = button.querySelector("[data-zone]");
      if (zone) zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
      button.addEventListener("click", () => choose(button.dataset.times));
    }
    mark();
  });
})();
