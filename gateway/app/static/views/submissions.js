// What somebody has submitted.

import { ask, inWords } from "../api.js";
import { askToSignIn } from "../account.js";
import { ago, h, replace } from "../dom.js";
import { languageName } from "../samples.js";
import { session } from "../session.js";
import { badge } from "../verdict.js";
import { allChallenges } from "./challenges.js";

export async function view({ signal }) {
  const place = h("div");
  const titles = new Map((await allChallenges(signal)).map((each) => [each.slug, each.title]));

  async function draw() {
    if (session.name === null) {
      replace(place, signedOut("Sign in to see what you have submitted."));
      return;
    }
    const list = h("tbody");
    const more = h("button", { type: "button", class: "button", hidden: true }, "Show older ones");
    let before = null;

    async function load() {
      const page = await ask("submissions/list-submissions", { limit: 50, before }, { signal });
      list.append(...page.submissions.map((each) => rowOf(each, titles)));
      before = page.next;
      more.hidden = before === null;
    }

    more.addEventListener("click", () => load().catch((error) => replace(place, h("p", { role: "alert" }, inWords(error)))));
    try {
      await load();
    } catch (error) {
      if (signal.aborted) return;
      replace(place, error.status === 401 ? signedOut("Your session has ended: sign in again.") : h("p", { class: "empty", role: "alert" }, inWords(error)));
      return;
    }
    replace(place, list.children.length
      ? [h("table", { class: "board" }, h("caption", { class: "hidden-words" }, "Your submissions, the newest first"),
          h("thead", {}, h("tr", {}, ["Challenge", "Verdict"].map((each) => h("th", { scope: "col" }, each)), ["Cases", "Language"].map((each) => h("th", { scope: "col", class: "number roomy" }, each)), h("th", { scope: "col", class: "number" }, "When"))), list), more]
      : h("p", { class: "empty" }, "You have not submitted anything yet. ", h("a", { href: "#/challenges" }, "Choose a challenge.")));
  }

  session.addEventListener("change", draw, { signal });
  await draw();
  return { title: "Submissions", node: [h("header", { class: "page-head" }, h("h1", { tabindex: "-1" }, "Your submissions")), place] };
}

function rowOf(each, titles) {
  return h("tr", {},
    h("th", { scope: "row", class: "name" }, h("a", { href: `#/submissions/${encodeURIComponent(each.id)}` }, titles.get(each.challenge) ?? each.challenge)),
    h("td", {}, badge(each)),
    h("td", { class: "number roomy" }, `${each.passed} of ${each.cases}`),
    h("td", { class: "number roomy" }, languageName(each.language)),
    h("td", { class: "number" }, ago(each.submitted_at)));
}

/** What a page shows that needs an account. */
export function signedOut(words) {
  return h("div", { class: "empty" }, h("p", {}, words), h("p", {}, h("button", { type: "button", class: "button primary", onclick: () => askToSignIn() }, "Sign in")));
}
