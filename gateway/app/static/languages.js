// Which languages there are. Where nobody says it now, what was said last stands in, and nothing can be run.

import { Problem, ask, inWords } from "./api.js";
import { everyLanguage } from "./samples.js";
import { load, save } from "./storage.js";
import { sleep } from "./stream.js";

const PATIENCE_MS = 2_000; // a view waits no longer for this
const FIRST_PAUSE_MS = 3_000;
const LONGEST_PAUSE_MS = 60_000;

let known = null;
let asking = null;

function refresh() {
  asking ??= ask("code-executor/list-languages", {}, { anonymous: true })
    .then((found) => {
      known = found.map((language) => language.id);
      save("languages", JSON.stringify(known));
      return known;
    })
    .finally(() => {
      asking = null;
    });
  return asking;
}

/** Return `{ids, reason}`: the languages that there are, and why nothing can be run now, else null. Raises nothing. */
export async function languages() {
  if (known) return { ids: known, reason: null };
  try {
    const late = new Promise((_, reject) => setTimeout(() => reject(new Problem(503)), PATIENCE_MS));
    return { ids: await Promise.race([refresh(), late]), reason: null };
  } catch (error) {
    return { ids: lastKnown(), reason: whyNot(error) };
  }
}

/** Ask again and again, until it is said. Returns the languages; null if the signal ended it. */
export async function untilKnown(signal) {
  let pauseMs = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    if (!asking) {
      await sleep(pauseMs, signal);
      if (signal.aborted || document.hidden) continue; // nobody looks
    }
    try {
      return await refresh();
    } catch (error) {
      pauseMs = Math.min(Math.max(pauseMs * 2, (error.retryAfterS ?? 0) * 1000), LONGEST_PAUSE_MS);
    }
  }
  return null;
}

/** Of these languages, those that a challenge takes; none named means all. */
export function taken(ids, named, isKnown) {
  if (!named.length) return ids;
  const both = ids.filter((id) => named.includes(id));
  return both.length || isKnown ? both : named;
}

function lastKnown() {
  try {
    const ids = JSON.parse(load("languages"));
    if (Array.isArray(ids) && ids.length && ids.every((id) => typeof id === "string")) return ids;
  } catch {
    // It is no list.
  }
  return everyLanguage();
}

function whyNot(error) {
  const isTold = error instanceof Problem && (error.status === 0 || error.kind === "no-sandbox");
  return isTold ? inWords(error) : "Programs cannot be run now. You can go on writing: Run comes back by itself.";
}
