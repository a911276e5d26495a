// Short words at the edge of the page, over it, so that nothing moves: offline, and what has just happened.

import { h } from "./dom.js";

const place = document.getElementById("notices");
let offline = null;

/** Show a notice for some seconds. */
export function notify(text, kind = "plain") {
  const shown = h("p", { class: `notice ${kind}` }, text);
  place.append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Say, until it is no longer so, that nothing is reached. */
export function notifyOffline() {
  if (offline) return;
  offline = h("p", { class: "notice warn", id: "offline" }, "You are offline, or the server is away. What you write is kept in this browser.");
  place.append(offline);
}

export function notifyOnline() {
  offline?.remove();
  offline = null;
}

addEventListener("offline", notifyOffline);
addEventListener("online", notifyOnline);
