// Where somebody works: the editor, what the program reads, what it writes, and what became of it.

import { command, inWords } from "./api.js";
import { MOD, h, icon, replace } from "./dom.js";
import { makeEditor } from "./editor.js";
import { taken, untilKnown } from "./languages.js";
import { notify } from "./notices.js";
import { prepare, run } from "./runner.js";
import { languageName } from "./samples.js";
import { load, programKey, save } from "./storage.js";
import { makeTabs } from "./tabs.js";
import { Terminal } from "./terminal.js";

const NARROW = "(max-width: 720px)"; // as in views.css

/** Choose a language: the one that was used here last, or anywhere. */
function firstLanguage(place, offered) {
  return [load(`language/${place}`), load("language"), "python"].find((each) => offered.includes(each)) ?? offered[0] ?? "python";
}

/**
 * Make a workbench.
 *
 * `place` is what programs are kept under, `available` what languages.js says, `takes` the languages that a challenge names, `begin` gives the program that a language begins with, `submit(language, source)` sends a solution
 * where there is something to solve, and `verdict` is the part of the page that shows what became of it.
 */
export function makeWorkbench({ place, available, takes = [], begin, signal, submit = null, verdict = null }) {
  let offered = taken(available.ids, takes, available.reason === null);
  let language = firstLanguage(place, offered);
  let whyNot = null; // why nothing can be run
  let current = null; // the run that is under way
  let isHanding = false; // whether a submission is under way
  const programOf = (id) => load(programKey(place, id)) ?? begin(id);

  const choice = h("select", { id: "language", onchange: () => choose(choice.value) });
  const runButton = h("button", { type: "button", class: submit ? "button" : "button primary", id: "run", "aria-keyshortcuts": "Control+Enter", onclick: start }, icon("play", 14), "Run", h("kbd", { "aria-hidden": "true" }, `${MOD} ⏎`));
  const submitButton = submit && h("button", { type: "button", class: "button primary", id: "submit", "aria-keyshortcuts": "Control+Shift+Enter", onclick: hand }, "Submit", h("kbd", { "aria-hidden": "true" }, `${MOD} ⇧ ⏎`));
  const bar = h("div", { class: "bar" },
    h("label", { class: "hidden-words", for: "language" }, "Language"), choice,
    h("button", { type: "button", class: "link", onclick: startOver }, "Start over"),
    h("span", { class: "stretch" }), runButton, submitButton);

  const frame = h("div", { class: "editor-frame" });
  const hint = h("p", { class: "hint", id: "editor-hint" }, "Tab indents. ", h("kbd", {}, "Esc"), " then ", h("kbd", {}, "Tab"), " leaves the editor.");

  const input = h("textarea", { id: "stdin", rows: "3", spellcheck: "false", autocapitalize: "off", placeholder: "What the program reads", oninput: () => save(`input/${place}`, input.value || null) });
  input.value = load(`input/${place}`) ?? "";
  const output = h("pre", { class: "output is-fresh", id: "output", role: "log", tabindex: "0", "aria-label": "Output" });
  const note = h("p", { class: "cut-note" });
  const status = h("p", { class: "run-status", id: "run-status", role: "status" });
  const stopButton = h("button", { type: "button", class: "link", id: "stop", hidden: true, "aria-keyshortcuts": "Control+.", title: `Stop the run (${MOD} .)`, onclick: stop }, "Stop");
  const outputPane = h("div", { class: "output-pane" }, output, note);
  const tabs = verdict && makeTabs("Result", [["Output", outputPane], ["Verdict", h("div", { class: "verdict-pane" }, verdict.node)]]);
  const result = h("section", { class: "result", "aria-label": "Result" },
    h("div", { class: "pane-head" }, tabs ? tabs.list : h("h2", {}, "Output"), status, stopButton),
    tabs ? tabs.panels : outputPane);
  const panel = h("div", { class: "panel" },
    h("div", { class: "input" }, h("div", { class: "pane-head" }, h("label", { for: "stdin" }, "Input")), input), result);
  const node = h("section", { class: "workbench", "aria-label": "Workbench" }, h("div", { class: "code" }, bar, frame, hint), panel);

  const terminal = new Terminal(output);
  let saving = 0;
  const editor = makeEditor(frame, {
    text: programOf(language), language, label: "Program", describedBy: "editor-hint",
    onChange: (text) => {
      clearTimeout(saving);
      const key = programKey(place, language);
      saving = setTimeout(() => save(key, text === begin(language) ? null : text), 250);
    },
    commands: [{ key: "Mod-Enter", run: start }, { key: "Mod-.", run: stop }, ...(submit ? [{ key: "Mod-Shift-Enter", run: hand }] : [])],
  });

  node.addEventListener("keydown", (event) => {
    if (!["Enter", "."].includes(event.key) || !(event.ctrlKey || event.metaKey) || event.defaultPrevented) return;
    event.preventDefault();
    if (event.key === ".") stop();
    else if (event.shiftKey && submit) hand();
    else start();
  });

  function drawChoice() {
    replace(choice, offered.map((id) => h("option", { value: id, ".selected": id === language }, languageName(id))));
  }

  /** Let nothing be run, for a reason; null lets it. */
  function forbid(reason) {
    whyNot = reason;
    runButton.title = reason ?? "";
    draw();
    say(reason ?? "", "bad");
  }

  async function waitForLanguages() {
    const ids = await untilKnown(signal);
    if (ids === null) return;
    offered = taken(ids, takes, true);
    if (offered.length && !offered.includes(language)) choose(firstLanguage(place, offered));
    drawChoice();
    forbid(null);
  }

  function keep() {
    clearTimeout(saving);
    save(programKey(place, language), editor.text === begin(language) ? null : editor.text);
  }

  function choose(id) {
    keep();
    language = id;
    save("language", id);
    save(`language/${place}`, id);
    editor.show(programOf(id), id);
  }

  function startOver() {
    editor.write(begin(language));
    notify("The program begins anew. Undo brings yours back.");
    editor.focus();
  }

  function draw() {
    runButton.setAttribute("aria-disabled", String(current !== null || whyNot !== null));
    runButton.classList.toggle("is-busy", current !== null);
    submitButton?.setAttribute("aria-disabled", String(isHanding));
    submitButton?.classList.toggle("is-busy", isHanding);
    if (current === null && document.activeElement === stopButton) runButton.focus(); // or the focus would be lost with it
    stopButton.hidden = current === null;
    stopButton.setAttribute("aria-disabled", String(Boolean(current?.isStopping)));
  }

  async function start() {
    if (current) return;
    if (whyNot) return say(whyNot, "bad");
    keep();
    const own = (current = { id: null, isStopping: false });
    draw();
    tabs?.select(0);
    terminal.clear();
    output.classList.remove("is-empty", "is-fresh");
    note.textContent = "";
    say("It starts …");
    reveal();
    try {
      const ended = await run({
        language, source: editor.text, stdin: input.value, terminal, signal,
        onId: (id) => {
          own.id = id;
          if (own.isStopping) cancel(own);
        },
        onState: (words) => own.isStopping || say(words),
      });
      if (ended) {
        if (own.isStopping && ended.kind !== "good") say("You have stopped it.");
        else say(ended.text, ended.kind);
        note.textContent = ended.note ?? "";
        output.classList.toggle("is-empty", Boolean(ended.isEmpty));
      }
    } catch (error) {
      if (!signal.aborted) say(inWords(error), "bad");
    } finally {
      current = null;
      draw();
    }
  }

  /** Stop the run that is under way; its end is told as that of any other. */
  function stop() {
    if (!current || current.isStopping) return;
    current.isStopping = true;
    draw();
    say("It is being stopped …");
    if (current.id !== null) cancel(current);
  }

  async function cancel(own) {
    try {
      await command("code-executor/cancel-run", { run_id: own.id }, { signal });
    } catch (error) {
      if (signal.aborted || current !== own) return; // it has ended by itself
      own.isStopping = false;
      draw();
      say(`It could not be stopped. ${inWords(error)}`, "bad");
    }
  }

  async function hand() {
    if (isHanding) return;
    keep();
    isHanding = true;
    draw();
    tabs.select(1);
    if (!current) say("");
    reveal();
    try {
      await submit(language, editor.text);
    } finally {
      isHanding = false;
      draw();
    }
  }

  // On a phone the result is below the editor.
  function reveal() {
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    if (matchMedia(NARROW).matches) result.scrollIntoView({ block: "end", behavior });
  }

  function say(words, kind = "") {
    status.className = `run-status ${kind}`;
    replace(status, words);
  }

  drawChoice();
  if (available.reason !== null) {
    forbid(available.reason);
    waitForLanguages();
  }
  prepare(signal);
  signal.addEventListener("abort", () => {
    keep();
    editor.close();
  });
  return {
    node,
    focus: editor.focus,
    /** Let the program read this. */
    read(text) {
      input.value = text;
      save(`input/${place}`, text || null);
    },
  };
}
