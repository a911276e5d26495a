// All challenges, the simple ones first.

import { ask } from "../api.js";
import { h, icon } from "../dom.js";
import { session } from "../session.js";
import { visible } from "../text.js";

/** Get all challenges, page by page. */
export async function allChallenges(signal) {
  const found = [];
  let after = null;
  do {
    const page = await ask("challenges/list-challenges", { limit: 100, after }, { signal, anonymous: true });
    found.push(...page.challenges.map((each) => ({ ...each, title: visible(each.title), tags: each.tags.map(visible) })));
    after = page.next;
  } while (after !== null);
  return found;
}

/** Show how hard a challenge is: dots, and words for who cannot see them. */
export function difficulty(level) {
  const dots = [1, 2, 3, 4, 5].map((each) => h("i", { class: each <= level ? "on" : "" }));
  return h("span", { class: "difficulty", title: `Difficulty ${level} of 5` }, dots, h("span", { class: "hidden-words" }, `Difficulty ${level} of 5`));
}

/** The challenges that somebody has solved, as far as their last hundred submissions tell. */
async function solvedOnes(signal) {
  if (session.name === null) return new Set();
  try {
    const page = await ask("submissions/list-submissions", { limit: 100 }, { signal });
    return new Set(page.submissions.filter((each) => each.verdict === "accepted").map((each) => each.challenge));
  } catch {
    return new Set(); // the list is as good without the marks
  }
}

export async function view({ signal }) {
  const [challenges, solved] = await Promise.all([allChallenges(signal), solvedOnes(signal)]);
  const rows = challenges.map((challenge) =>
    h("li", {},
      h("a", { class: "challenge-link", href: `#/challenges/${encodeURIComponent(challenge.slug)}` },
        session.name !== null && h("span", { class: `solved ${solved.has(challenge.slug) ? "is-solved" : ""}` }, solved.has(challenge.slug) && [icon("check", 15), h("span", { class: "hidden-words" }, "Solved: ")]),
        h("span", { class: "challenge-title" }, challenge.title),
        h("span", { class: "tags" }, challenge.tags.map((tag) => h("span", { class: "tag" }, tag))),
        difficulty(challenge.difficulty))));
  const count = challenges.filter((each) => solved.has(each.slug)).length;
  const words = session.name === null ? `${challenges.length} to solve.` : `${count} of ${challenges.length} solved.`;
  return {
    title: "Challenges",
    node: [
      h("header", { class: "page-head" }, h("h1", { tabindex: "-1" }, "Challenges"), h("p", { class: "muted" }, words)),
      challenges.length ? h("ul", { class: `challenge-list ${session.name === null ? "signed-out" : ""}` }, rows) : h("p", { class: "empty" }, "There are no challenges yet."),
    ],
  };
}
