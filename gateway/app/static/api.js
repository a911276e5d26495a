// Asks the gateway: JSON there and back, and errors as words that say what to do.

import { notifyOffline, notifyOnline } from "./notices.js";

/** What went wrong, from a problem document (RFC 9457), or because nothing was reached. */
export class Problem extends Error {
  constructor(status, document = {}, retryAfterS = null) {
    super(document.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.kind = String(document.type ?? "").split("/").pop();
    this.fields = document.error ?? {}; // what a declared error says of itself
    this.retryAfterS = this.fields.retry_after_s ?? retryAfterS;
  }
}

const seconds = (count) => (count >= 90 ? `${Math.ceil(count / 60)} minutes` : `${Math.max(1, Math.ceil(count))} s`);

/** Say a problem in words, with what to do. */
export function inWords(error) {
  if (!(error instanceof Problem)) return `The page has a fault: ${error?.message ?? error}. Reload it.`;
  const { status, kind, fields, retryAfterS } = error;
  switch (kind) {
    case "sign-in-failed":
      return "Name and password do not belong together.";
    case "name-taken":
      return "Somebody has that name already: choose another.";
    case "weak-password":
      return `Choose another password: ${fields.reason}`;
    case "session-ended":
      return "Your session has ended: sign in again.";
    case "too-many-submissions":
      return `${fields.waiting} of your submissions wait to be judged: wait for a verdict, then submit again.`;
    case "source-too-large":
      return `The ${fields.field === "stdin" ? "input" : "program"} is too large: it may have ${Math.floor(fields.limit_bytes / 1024)} KiB.`;
    case "unknown-language":
    case "language-not-taken":
      return `That language cannot be used here. Choose one of: ${(fields.available ?? fields.taken ?? []).join(", ")}.`;
    case "no-sandbox":
      return "Programs cannot be run on this server now: nothing there can contain them.";
  }
  if (status === 0) return "The server cannot be reached. What you wrote is kept here; try again when you are online.";
  if (status === 401) return "Sign in to do this.";
  if (status === 403) return "Your account may not do this.";
  if (status === 429) return `Too many requests: wait ${seconds(retryAfterS ?? 10)}, then try again.`;
  if (status === 503) return `The server is busy: try again ${retryAfterS ? `in ${seconds(retryAfterS)}` : "in a moment"}.`;
  if (status === 504) return "It took too long, so it may or may not have happened: look before you try again.";
  if (status === 422 || status === 400) return `${error.message} Correct it, then try again.`;
  if (status >= 500) return "The server has failed. Try again; if it stays, tell who runs it.";
  return error.message;
}

let session = { token: async () => null, renew: async () => null };

/** Say who gives the access token; see session.js. */
export function authorizeWith(given) {
  session = given;
}

/** Send a request, with the access token where there is one; a token that was refused is renewed once. Raise a Problem if it failed. */
export async function request(path, { method = "GET", headers = {}, body, signal, anonymous = false, cache = "default" } = {}) {
  let token = anonymous ? null : await session.token();
  for (let isRepeat = false; ; isRepeat = true) {
    const answer = await reach(path, {
      method, body, signal, cache, credentials: "same-origin",
      headers: token ? { ...headers, authorization: `Bearer ${token}` } : headers,
    });
    if (answer.ok) return answer;
    if (answer.status === 401 && token && !isRepeat) {
      await answer.body?.cancel();
      token = await session.renew();
      if (token) continue;
    }
    throw await problemOf(answer);
  }
}

async function reach(path, init) {
  try {
    const answer = await fetch(path, init);
    notifyOnline();
    return answer;
  } catch (error) {
    if (init.signal?.aborted) throw error;
    notifyOffline();
    throw new Problem(0);
  }
}

async function problemOf(answer) {
  const retryAfter = Number.parseFloat(answer.headers.get("retry-after") ?? "");
  let document = {};
  try {
    document = await answer.json();
  } catch {
    // A proxy before the gateway may answer without a document.
  }
  return new Problem(answer.status, document, Number.isFinite(retryAfter) ? retryAfter : null);
}

/** Ask a query. What an event has just changed is asked for with `cache: "no-cache"`, so that it is not an answer of before. */
export async function ask(path, parameters = {}, options = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  const answer = await request(`/api/${path}${query}`, options);
  return answer.json();
}

/** Send a command. It has a key, so where the network fails it can be sent once more and happens once. */
export async function command(path, body, options = {}) {
  const init = {
    ...options,
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json", "idempotency-key": `"${randomKey()}"` },
  };
  let answer;
  try {
    answer = await request(`/api/${path}`, init);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 0 || !navigator.onLine) throw error;
    answer = await request(`/api/${path}`, init);
  }
  return answer.status === 204 ? null : answer.json();
}

/** A key that nobody guesses; `crypto.randomUUID` is not there on plain HTTP. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
