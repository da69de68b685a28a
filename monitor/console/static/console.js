// Keys, and news of the queue. Every page works without this file.
"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  document.documentElement.classList.add("scripted");

  // Keys.

  const rows = () => [...document.querySelectorAll("#queue a.open")];

  function step(by) {
    const links = rows();
    if (links.length) {
      const at = links.indexOf(document.activeElement);
      const next = links[Math.min(Math.max(at + by, 0), links.length - 1)];
      next.focus();
      next.closest("tr").scrollIntoView({ block: "nearest" });
      return true;
    }
    return follow(by > 0 ? "#go-on, a[rel=next]" : "a[rel=prev]");
  }

  function follow(selector) {
    const link = find(selector);
    link?.click();
    return Boolean(link);
  }

  function choose(key) {
    const choice = find(`#decision input[data-key="${key}"]`);
    if (!choice) return false;
    choice.checked = true;
    choice.focus();
    if (key === "w") find("#right").focus();
    return true;
  }

  function focus(selector) {
    const element = find(selector);
    element?.focus();
    return Boolean(element);
  }

  function help() {
    const dialog = find("#help");
    if (!dialog || dialog.open) return false;
    dialog.showModal();
    return true;
  }

  const keys = {
    j: () => step(1),
    k: () => step(-1),
    a: () => choose("a"),
    r: () => choose("r"),
    w: () => choose("w"),
    u: () => choose("u"),
    n: () => focus("#note"),
    v: () => follow("#reveal"),
    q: () => follow("#back"),
    "?": help,
  };

  const writes = (element) => element.matches("input:not([type=radio], [type=range]), textarea, select");

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.key === "Enter" && event.ctrlKey && target.matches("#note")) {
      target.form.requestSubmit();
      event.preventDefault();
      return;
    }
    if (event.key === "Escape" && writes(target)) {
      target.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || writes(target) || find("dialog[open]")) return;
    if (keys[event.key]?.()) event.preventDefault();
  });

  const button = find("#help-button");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", help);
  }

  document.addEventListener("htmx:error", () => {
    find("#away").hidden = false;
  });
  document.addEventListener("htmx:after:request", () => {
    find("#away").hidden = true;
  });

  // What htmx has put in place of something that had the focus gets it back.
  document.addEventListener("htmx:after:swap", () => {
    if (document.activeElement !== document.body) return;
    const next = find("#go-on") ?? find("#decision-problem") ?? find("#text");
    next?.focus({ preventScroll: true });
  });

  // News.

  if (!document.body.dataset.user) return;
  let source = null;

  function news(data) {
    find("#waiting").textContent = data.waiting;
    find("#problem-count").textContent = data.problems;
    find("#problems-link").hidden = data.problems === 0;
    const queue = find("#queue");
    if (queue) {
      const fresh = data.arrived - Number(queue.dataset.arrived);
      find("#news").hidden = fresh <= 0;
      find("#news-count").textContent = fresh === 1 ? "One new flag." : `${fresh} new flags.`;
    }
    const flag = find("#flag")?.dataset.flag;
    if (flag && (data.changed === null || data.changed.includes(flag))) {
      htmx.ajax("GET", `/flags/${flag}/state`, { target: "#state", swap: "outerHTML" });
    }
  }

  // A browser opens six connections to a site at most: only the page that is looked at keeps one open.
  function listen() {
    if (document.visibilityState === "visible") {
      if (source) return;
      source = new EventSource("/events");
      source.addEventListener("queue", (event) => news(JSON.parse(event.data)));
    } else {
      source?.close();
      source = null;
    }
  }

  document.addEventListener("visibilitychange", listen);
  document.addEventListener("htmx:after:swap", () => {
    if (find("#queue")) find("#news").hidden = true;
  });
  listen();
})();
