// Runs a program and shows what it writes while it does.

import { ask, command } from "./api.js";
import { duration } from "./dom.js";
import { events, position } from "./stream.js";

const watching = (id) => `/runs/${encodeURIComponent(id)}/events`;
const FRESH_MS = 10_000;

let mark = null; // where the log of runs stood, and when

// Its first words are in the log before their stream is open. So ask first where the log stands, and read on from there.
async function before(signal) {
  if (!mark || Date.now() - mark.at > FRESH_MS) mark = { id: await position(watching("-"), signal), at: Date.now() };
  return mark.id;
}

/** Open what the next run will need, while nobody waits. */
export function prepare(signal) {
  before(signal).catch(() => {});
}

/**
 * Run a program; `onId` gets the id of its run. Returns how it ended, in words, as `{text, kind, note}`. Raises a Problem where it could not be run.
 */
export async function run({ language, source, stdin, terminal, signal, onId, onState }) {
  const after = await before(signal);
  const { run_id: id } = await command("code-executor/start-run", { language, source, stdin }, { signal });
  onId(id);
  onState("It waits for its turn …");
  const written = { stdout: 0, stderr: 0 };
  let isWhole = true;
  for await (const event of events(watching(id), { signal, after, anonymous: true })) {
    // The id of a last event says that there is nothing behind it, which holds for this run only.
    if (event.id && event.event !== "run-finished" && event.event !== "run-failed") mark = { id: event.id, at: Date.now() };
    if (event.event === "run-started") {
      onState("It runs …");
    } else if (event.event === "run-output") {
      written[event.data.stream] += event.data.text.length;
      terminal.write(event.data.stream, event.data.text);
    } else if (event.event === "run-finished") {
      return finish(event.data.report, terminal, written, isWhole);
    } else if (event.event === "run-failed") {
      terminal.finish();
      return { text: failed(event.data), kind: "bad" };
    } else if (event.event === "lost" || event.event === "reset") {
      isWhole = false;
      const found = await ask("code-executor/get-run", { run_id: id }, { signal });
      if (found.report) return finish(found.report, terminal, written, false);
      if (found.summary.state === "failed") return { text: failed(found.failure), kind: "bad" };
    }
  }
  return null;
}

// Why is a sentence for people, of the executor's own.
function failed(failure) {
  return `It could not be run. ${failure?.reason ?? "Try again."}`;
}

function finish(report, terminal, written, isWhole) {
  terminal.finish();
  if (!isWhole || written.stdout !== report.stdout.length || written.stderr !== report.stderr.length) {
    terminal.clear(); // some of it was missed on the way
    terminal.write("stdout", report.stdout);
    terminal.write("stderr", report.stderr);
    terminal.finish();
  }
  return {
    ...outcome(report),
    note: report.truncated ? "It wrote more than is shown: the rest was cut off." : null,
    isEmpty: !report.stdout && !report.stderr,
  };
}

function outcome(report) {
  const time = duration(report.duration_ms);
  switch (report.outcome) {
    case "finished":
      return report.exit_code === 0
        ? { text: `Finished in ${time}.`, kind: "good" }
        : { text: `Ended with exit code ${report.exit_code}, in ${time}.`, kind: "bad" };
    case "timeout":
      return { text: `Stopped after ${time}: it ran too long.`, kind: "bad" };
    case "cpu_limit":
      return { text: `Stopped after ${time}: it used too much processor time.`, kind: "bad" };
    case "memory_limit":
      return { text: "Stopped: it used too much memory.", kind: "bad" };
    case "output_limit":
      return { text: "Stopped: it wrote too much.", kind: "bad" };
    case "cancelled":
      return { text: `Stopped after ${time}.`, kind: "bad" };
    case "compile_error":
      return { text: "It does not compile.", kind: "bad" };
    default:
      return { text: `Ended by signal ${report.signal ?? "?"}, after ${time}.`, kind: "bad" };
  }
}
