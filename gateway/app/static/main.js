// Begins: the routes, the account in the corner, the colours.

import { makeAccount } from "./account.js";
import { inWords } from "./api.js";
import { h, replace } from "./dom.js";
import { showKeys } from "./keys.js";
import { resume } from "./session.js";
import { makeTheme } from "./theming.js";

const VIEWS = [
  [/^\/?$/, "playground", () => import("./views/playground.js")],
  [/^\/challenges$/, "challenges", () => import("./views/challenges.js")],
  [/^\/challenges\/([^/]+)$/, "challenges", () => import("./views/challenge.js")],
  [/^\/leaderboard(?:\/([^/]+))?$/, "leaderboard", () => import("./views/leaderboard.js")],
  [/^\/submissions$/, "submissions", () => import("./views/submissions.js")],
  [/^\/submissions\/([^/]+)$/, "submissions", () => import("./views/submission.js")],
];
const SLOW_MS = 150;

const main = document.getElementById("main");
const progress = document.getElementById("progress");
let leaving = null;

/** Show what the address names. What was shown stays until the new view has what it needs, so nothing flickers. */
async function show(isFirst = false) {
  leaving?.abort();
  const here = (leaving = new AbortController());
  const path = location.hash.replace(/^#/, "");
  const slow = setTimeout(() => (progress.hidden = false), SLOW_MS);
  let view;
  const found = VIEWS.map(([pattern, name, get]) => ({ match: pattern.exec(path), name, get })).find(({ match }) => match);
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === found?.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (!found) throw null;
    const module = await found.get();
    view = await module.view({ parameter: found.match[1] ? decodeURIComponent(found.match[1]) : null, signal: here.signal });
  } catch (error) {
    if (here.signal.aborted) return;
    view = { title: "Not here", node: failed(error) };
  } finally {
    clearTimeout(slow);
    if (leaving === here) progress.hidden = true;
  }
  if (here.signal.aborted) return;
  document.title = `${view.title} · fissile`;
  main.className = view.kind ?? "page";
  replace(main, view.node);
  scrollTo(0, 0);
  view.onShown?.();
  if (!isFirst) (main.querySelector("h1") ?? main).focus({ preventScroll: true });
}

function failed(error) {
  const words = error === null ? "There is nothing at this address." : inWords(error);
  return h("div", { class: "empty" }, h("h1", { tabindex: "-1" }, "This cannot be shown"), h("p", { role: "alert" }, words),
    h("p", {}, h("button", { type: "button", class: "button", onclick: () => show() }, "Try again"), " ", h("a", { class: "button", href: "#/" }, "To the playground")));
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("keys").addEventListener("click", showKeys);
makeTheme(document.getElementById("theme"));
makeAccount(document.getElementById("account"));
addEventListener("hashchange", () => show());
resume();
show(true);
