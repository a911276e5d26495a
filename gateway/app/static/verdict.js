// What became of a submission, case by case, as the verdicts arrive.

import { ask } from "./api.js";
import { duration, h, icon, replace } from "./dom.js";
import { events } from "./stream.js";

const WORDS = {
  accepted: "Accepted",
  wrong_answer: "Wrong answer",
  runtime_error: "Runtime error",
  time_limit: "Too slow",
  memory_limit: "Too much memory",
  output_limit: "Too much output",
  compile_error: "Does not compile",
};
const NUMBERS = new Intl.ListFormat("en-GB");
const ICONS = { accepted: "check", time_limit: "clock" };

/** Say a verdict in words. */
export const verdictWords = (verdict) => WORDS[verdict] ?? "Could not be judged";

/** Say in words where a submission stands. */
export function stateWords(summary) {
  if (summary.state === "judged") return verdictWords(summary.verdict);
  if (summary.state === "failed") return "Could not be judged";
  return summary.state === "judging" ? "Being judged" : "Waiting";
}

/** Make a mark for where a submission stands: a word, a picture and a colour. */
export function badge(summary) {
  const isOver = summary.state === "judged" || summary.state === "failed";
  const kind = !isOver ? "wait" : summary.verdict === "accepted" ? "good" : "bad";
  const picture = !isOver ? "dots" : summary.verdict === null ? "dash" : (ICONS[summary.verdict] ?? "cross");
  return h("span", { class: `badge ${kind}` }, icon(picture, 14), stateWords(summary));
}

/** Make the part of the page that shows a submission. */
export function makeVerdict() {
  const status = h("p", { class: "verdict-status", role: "status" });
  const count = h("p", { class: "verdict-count" });
  const cells = h("ol", { class: "cases", "aria-label": "Cases" });
  const details = h("div", { class: "case-details" });
  const node = h("div", { class: "verdict" }, h("div", { class: "verdict-head" }, status, count), cells, details);
  const results = new Map();
  const told = new Map(); // the details that are shown, by what they say
  let total = 0;

  function draw() {
    while (cells.children.length < total) cells.append(h("li", { class: "case" }, h("span", { class: "case-number" }, cells.children.length + 1)));
    const passed = [...results.values()].filter((result) => result.verdict === "accepted").length;
    count.textContent = total ? `${passed} of ${total} cases` : "";
  }

  function showCase(result) {
    if (results.has(result.number)) return;
    results.set(result.number, result);
    total = Math.max(total, result.number + 1);
    draw();
    const good = result.verdict === "accepted";
    const words = `${result.is_hidden ? "Hidden case" : "Case"} ${result.number + 1}: ${verdictWords(result.verdict)}, ${duration(result.duration_ms)}`;
    const cell = cells.children[result.number];
    cell.className = `case ${good ? "good" : "bad"}`;
    cell.title = words;
    replace(cell, icon(ICONS[result.verdict] ?? "cross", 14), h("span", { class: "case-number" }, result.number + 1), h("span", { class: "hidden-words" }, words));
    if (!good && (result.detail || !details.children.length)) tell(result, words);
  }

  // What is the same for several cases, as an error of the compiler is, is told once.
  function tell(result, words) {
    const key = `${result.verdict} ${result.detail ?? ""}`;
    const there = result.detail ? told.get(key) : undefined;
    const numbers = [...(there?.numbers ?? []), result.number].sort((one, other) => one - other);
    const heading = h("h2", {}, there ? `Cases ${NUMBERS.format(numbers.map((number) => String(number + 1)))}: ${verdictWords(result.verdict)}` : words);
    const text = result.detail ? h("pre", { tabindex: "0", "aria-label": "Details" }, result.detail) : h("p", {}, result.is_hidden ? "Its input and output are hidden." : "There is nothing more to tell.");
    const section = there?.section ?? h("section", { class: "case-detail" }, heading, text);
    if (there) section.firstChild.replaceWith(heading);
    told.set(key, { numbers, section });
    section.dataset.case = numbers[0];
    const later = [...details.children].find((each) => Number(each.dataset.case) > numbers[0]) ?? null;
    if (!there || section.nextSibling !== later) details.insertBefore(section, later);
  }

  return {
    node,
    /** Begin with a new submission. */
    begin(words) {
      results.clear();
      told.clear();
      total = 0;
      replace(cells);
      replace(details);
      draw();
      status.className = "verdict-status";
      status.textContent = words;
    },
    cases(howMany) {
      total = Math.max(total, howMany);
      draw();
    },
    case: showCase,
    judged({ verdict, cases }) {
      total = Math.max(total, cases);
      draw();
      for (const cell of cells.children) if (cell.className === "case") cell.className = "case not-run";
      status.className = `verdict-status ${verdict === "accepted" ? "good" : "bad"}`;
      const worst = Math.max(0, ...[...results.values()].map((result) => result.duration_ms));
      replace(status, icon(ICONS[verdict] ?? "cross", 18), verdictWords(verdict), verdict === "accepted" ? h("span", { class: "muted" }, ` in ${duration(worst)}`) : null);
    },
    fail(words) {
      status.className = "verdict-status bad";
      status.textContent = words;
    },
    say(words) {
      if (status.textContent !== words) status.textContent = words; // or it would be read out again
    },
  };
}

/** Show a submission that is stored, and nothing that was shown of it before. Returns whether it is over. */
export function showStored(verdict, submission) {
  const { summary } = submission;
  verdict.begin(summary.state === "judging" ? "Being judged …" : "It waits for its turn …");
  verdict.cases(summary.cases);
  submission.results.forEach(verdict.case);
  const isOver = summary.state === "judged" || summary.state === "failed";
  if (isOver) verdict.judged({ verdict: summary.verdict, cases: summary.cases });
  return isOver;
}

/** Show what becomes of a submission until it has its verdict, or the signal ends it. Raises a Problem. */
export async function follow(id, verdict, signal) {
  let round = 1;
  for await (const { event, data } of events(`/submissions/${encodeURIComponent(id)}/events`, { signal })) {
    if (event === "case-judged") {
      if (data.round > round) verdict.begin("The challenge was changed: it is judged anew …");
      round = Math.max(round, data.round);
      verdict.say("Being judged …");
      verdict.cases(data.cases);
      verdict.case(data.result);
    } else if (event === "judging-ended") {
      verdict.judged(data);
      return;
    } else if (event === "reset" || event === "lost" || event === "end") {
      if (showStored(verdict, await ask("submissions/get-submission", { id }, { signal }))) return;
    }
  }
  // It has ended without a verdict: what is stored is all there is.
  if (!signal.aborted) showStored(verdict, await ask("submissions/get-submission", { id }, { signal }));
}
