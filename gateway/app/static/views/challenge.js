// One challenge: what is to be done beside where it is done.

import { ask, command, inWords } from "../api.js";
import { askToSignIn } from "../account.js";
import { ago, duration, h, replace } from "../dom.js";
import { languages } from "../languages.js";
import { followLeaderboard, oneAtATime } from "../live.js";
import { languageName, start } from "../samples.js";
import { session } from "../session.js";
import { formatted, visible } from "../text.js";
import { badge, follow, makeVerdict } from "../verdict.js";
import { makeWorkbench } from "../workbench.js";
import { difficulty } from "./challenges.js";

const SOLVERS = 10;

export async function view({ parameter: slug, signal }) {
  const [challenge, available] = await Promise.all([
    ask("challenges/get-challenge", { slug }, { signal, anonymous: true }),
    languages(),
  ]);
  const verdict = makeVerdict();
  verdict.begin("Nothing is submitted yet.");
  const solving = challenge.is_withdrawn ? {} : { submit, verdict };
  const workbench = makeWorkbench({ place: slug, available, takes: challenge.languages, begin: start, signal, ...solving });
  const mine = makeMine(slug, signal);
  const solvers = makeSolvers(slug, signal);

  async function submit(language, source) {
    if (session.name === null && !(await askToSignIn("Sign in to submit: your solution gets a verdict and a place on the leaderboard."))) return;
    verdict.begin("It is being sent …");
    try {
      const id = await command("submissions/submit-solution", { challenge: slug, language, source }, { signal });
      verdict.cases(challenge.examples.length + challenge.cases);
      verdict.say("It waits for its turn …");
      mine.load();
      await follow(id, verdict, signal);
      mine.load();
    } catch (error) {
      if (signal.aborted) return;
      verdict.fail(inWords(error));
      if (error.status === 401) askToSignIn("Your session has ended: sign in again.");
    }
  }

  const statement = h("article", { class: "statement" },
    h("p", { class: "crumbs" }, h("a", { href: "#/challenges" }, "Challenges")),
    h("h1", { tabindex: "-1" }, visible(challenge.title)),
    h("p", { class: "meta" }, difficulty(challenge.difficulty), challenge.tags.map((tag) => h("span", { class: "tag" }, visible(tag))),
      h("span", {}, `${challenge.time_s} s of CPU time (${1.5 * challenge.time_s + 1} s by the clock), ${challenge.memory_mib} MiB for each of ${challenge.examples.length + challenge.cases} cases`)),
    challenge.is_withdrawn && h("p", { class: "withdrawn" }, "This challenge was withdrawn: it takes no more solutions."),
    h("div", { class: "prose" }, formatted(challenge.statement)),
    challenge.examples.map((example, index) => exampleOf(example, index, challenge.examples.length, workbench)));
  const task = h("div", { class: "task" }, statement, h("div", { class: "others" }, mine.node, solvers.node));
  return { title: visible(challenge.title), kind: "full split", node: [task, workbench.node] };
}

function exampleOf(example, index, count, workbench) {
  const name = count > 1 ? `Example ${index + 1}` : "Example";
  return h("section", { class: "example" },
    h("div", { class: "example-head" }, h("h2", {}, name),
      h("button", { type: "button", class: "link", "aria-label": `Use as input: ${name.toLowerCase()}`, onclick: () => workbench.read(example.stdin) }, "Use as input")),
    h("div", { class: "example-texts" },
      h("figure", {}, h("figcaption", {}, "Input"), h("pre", { tabindex: "0", "aria-label": `${name}, input` }, visible(example.stdin))),
      h("figure", {}, h("figcaption", {}, "Output"), h("pre", { tabindex: "0", "aria-label": `${name}, output` }, visible(example.stdout)))));
}

/** What somebody has submitted to this challenge. */
function makeMine(slug, signal) {
  const list = h("ul", { class: "rows" });
  const node = h("section", { class: "aside", hidden: true }, h("h2", {}, "Your submissions"), list);

  async function load() {
    if (session.name === null) {
      node.hidden = true;
      return;
    }
    try {
      const page = await ask("submissions/list-submissions", { challenge: slug, limit: 5 }, { signal });
      node.hidden = page.submissions.length === 0;
      replace(list, page.submissions.map((each) =>
        h("li", {}, h("a", { href: `#/submissions/${encodeURIComponent(each.id)}` }, badge(each)), h("span", { class: "muted" }, languageName(each.language)), h("span", { class: "muted end" }, ago(each.submitted_at)))));
    } catch {
      node.hidden = true; // the page is as good without
    }
  }

  session.addEventListener("change", load, { signal });
  load();
  return { node, load };
}

/** Who has solved it, the fastest first; it changes as verdicts arrive. */
function makeSolvers(slug, signal) {
  const list = h("ol", { class: "rows", "aria-live": "polite" });
  const node = h("section", { class: "aside" },
    h("h2", {}, "Fastest solutions"), list,
    h("p", {}, h("a", { href: `#/leaderboard/${encodeURIComponent(slug)}` }, "All who have solved it")));

  const load = oneAtATime(async () => {
    try {
      const { places } = await ask("leaderboard/get-solvers", { challenge: slug, limit: SOLVERS }, { signal, anonymous: true, cache: "no-cache" });
      replace(list, places.map((each) =>
        h("li", { class: each.name === session.name ? "is-me" : "" }, h("span", { class: "rank" }, each.rank), h("span", { class: "name" }, each.name), h("span", { class: "muted" }, languageName(each.language)), h("span", { class: "muted end" }, duration(each.duration_ms)))));
      if (!places.length) replace(list, h("li", { class: "muted" }, "Nobody yet: be the first."));
    } catch (error) {
      if (!signal.aborted) replace(list, h("li", { class: "muted" }, inWords(error)));
    }
  });

  followLeaderboard(signal, (changes) => {
    if (changes === null || changes.some((each) => each.challenge === slug)) load();
  });
  load();
  return { node };
}
