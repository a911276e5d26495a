// One submission: what became of it, and the program.

import { ask, inWords } from "../api.js";
import { ago, h } from "../dom.js";
import { makeEditor } from "../editor.js";
import { languageName } from "../samples.js";
import { session } from "../session.js";
import { programKey, save } from "../storage.js";
import { visible } from "../text.js";
import { follow, makeVerdict, showStored } from "../verdict.js";
import { signedOut } from "./submissions.js";

export async function view({ parameter: id, signal }) {
  const title = "Submission";
  if (session.name === null) {
    session.addEventListener("change", () => session.name !== null && dispatchEvent(new Event("hashchange")), { signal });
    return { title, node: [h("h1", { tabindex: "-1" }, title), signedOut("Sign in to see what you have submitted.")] };
  }
  const submission = await ask("submissions/get-submission", { id }, { signal });
  const { summary, source } = submission;
  const challenge = await ask("challenges/get-challenge", { slug: summary.challenge }, { signal, anonymous: true }).catch(() => null);
  const verdict = makeVerdict();
  verdict.begin("It waits for its turn …");
  if (!showStored(verdict, submission)) {
    follow(id, verdict, signal).catch((error) => signal.aborted || verdict.fail(inWords(error)));
  }
  const frame = h("div", { class: "editor-frame still" });
  const editor = makeEditor(frame, { text: source, language: summary.language, label: "Program, read only", isReadOnly: true });
  signal.addEventListener("abort", editor.close);
  const back = `#/challenges/${encodeURIComponent(summary.challenge)}`;

  function goOn() {
    save(programKey(summary.challenge, summary.language), source);
    save(`language/${summary.challenge}`, summary.language);
    location.hash = back.slice(1);
  }

  return {
    title,
    node: [
      h("p", { class: "crumbs" }, h("a", { href: "#/submissions" }, "Your submissions")),
      h("header", { class: "page-head" }, h("h1", { tabindex: "-1" }, challenge ? visible(challenge.title) : summary.challenge),
        h("p", { class: "muted" }, languageName(summary.language), " · ", ago(summary.submitted_at)),
        h("span", { class: "stretch" }), h("button", { type: "button", class: "button", onclick: goOn }, "Go on with it")),
      verdict.node, frame,
    ],
  };
}
