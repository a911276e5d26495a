// Reads server-sent events with fetch, since EventSource cannot say who asks. It connects again by itself and goes on where it was.

import { Problem, request } from "./api.js";

const SILENCE_MS = 45_000; // the gateway says that it is alive every 15 s
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

/** Cut a stream of text into events, as the HTML standard has it. */
export class EventParser {
  #rest = "";
  #event = "";
  #data = [];
  id = null;
  retryMs = null;

  /** Take some text and return the events that are complete with it. */
  push(text) {
    const events = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line) {
        this.#field(line);
      } else {
        if (this.#data.length) events.push({ id: this.id, event: this.#event || "message", data: this.#data.join("\n") });
        this.#event = "";
        this.#data = [];
      }
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}

/**
 * Give the events of a stream until the signal ends it.
 *
 * Raises a Problem where it makes no sense to try again: the stream does not exist, or is not for who asks. What everybody may read is asked for
 * anonymously, since a stream ends with the token that it was opened with.
 */
export async function* events(path, { signal, after = null, anonymous = false, onState = () => {} }) {
  let id = after;
  let pauseMs = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    const parser = new EventParser();
    parser.id = id;
    const silence = new AbortController();
    const either = AbortSignal.any([signal, silence.signal]);
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      heard();
      const headers = { accept: "text/event-stream", ...(id === null ? {} : { "last-event-id": id }) };
      const answer = await request(path, { headers, signal: either, anonymous });
      if (answer.status === 204) return;
      onState("live");
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard();
        const found = parser.push(decoder.decode(value, { stream: true }));
        id = parser.id;
        pauseMs = parser.retryMs === null ? FIRST_PAUSE_MS : Math.min(parser.retryMs, FIRST_PAUSE_MS);
        for (const event of found) yield { ...event, data: JSON.parse(event.data) };
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      if (error instanceof SyntaxError) throw error;
      if (error instanceof Problem && error.retryAfterS) pauseMs = Math.max(pauseMs, error.retryAfterS * 1000);
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
    if (signal.aborted) return;
    onState("waiting");
    await sleep(pauseMs * (0.75 + Math.random() / 2), signal);
    pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
  }
}

/** Ask where a topic stands now: an id that a stream can go on after, with any key. */
export async function position(path, signal) {
  const ending = new AbortController();
  const answer = await request(path, { headers: { accept: "text/event-stream" }, signal: AbortSignal.any([signal, ending.signal]), anonymous: true });
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  try {
    while (parser.id === null) {
      const { done, value } = await reader.read();
      if (done) break;
      parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    ending.abort();
  }
  return parser.id;
}

/** Wait, but not longer than the signal allows. */
export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
