// Who is signed in. The access token is in memory only and ends soon; what renews it is a cookie that no script can read.

import { Problem, authorizeWith, request } from "./api.js";
import { load, save } from "./storage.js";

const EARLY_MS = 30_000; // a token is renewed so long before it ends

/** Tells `change` when somebody has signed in or out. */
export const session = new (class extends EventTarget {
  /** The name of who is signed in; while the page starts, of who was when it was here last. */
  name = load("name");
  roles = [];
  /** Whether it is known who is signed in. */
  isKnown = false;
})();

let token = null;
let renewAt = 0;
let renewing = null;
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("session") : null;

function begin(answer, isNew) {
  token = answer.access_token;
  renewAt = Date.now() + Math.max(1000, answer.expires_in_s * 1000 - EARLY_MS);
  set(answer.name, answer.roles ?? [], isNew);
}

function end(isNew) {
  token = null;
  set(null, [], isNew);
}

function set(name, roles, isNew) {
  const changed = session.name !== name || !session.isKnown;
  session.name = name;
  session.roles = roles;
  session.isKnown = true;
  save("name", name);
  if (name) document.documentElement.dataset.signedIn = "";
  else delete document.documentElement.dataset.signedIn;
  if (isNew) tabs?.postMessage(name);
  if (changed) session.dispatchEvent(new Event("change"));
}

tabs?.addEventListener("message", (message) => {
  if (message.data === null) end(false);
  else if (message.data !== session.name) renew().catch(() => {});
});

async function post(path, body) {
  const answer = await request(path, {
    method: "POST", anonymous: true, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  return answer.status === 204 ? null : answer.json();
}

/** Sign in. Raises a Problem. */
export async function signIn(name, password) {
  begin(await post("/session", { name, password }), true);
}

/** Make an account and sign in. Raises a Problem. */
export async function signUp(name, password) {
  await post("/api/accounts/sign-up", { name, password });
  await signIn(name, password);
}

/** Change the password of who is signed in; their sessions elsewhere end. Raises a Problem. */
export async function changePassword(before, after) {
  const bearer = token !== null && Date.now() < renewAt ? token : await renew();
  // Not with the token that `request` adds: it would send a wrong password once more, after a renewal.
  const answer = await request("/session/password", {
    method: "PUT", anonymous: true, headers: { "content-type": "application/json", authorization: `Bearer ${bearer}` },
    body: JSON.stringify({ old: before, new: after }),
  });
  begin(await answer.json(), true);
}

/** Sign out, here and in other tabs. Raises a Problem where the server was not reached: the session goes on then. */
export async function signOut() {
  await request("/session", { method: "DELETE", anonymous: true });
  end(true);
}

/** Take up the session of before, where there was one. Never raises. */
export async function resume() {
  if (session.name === null) return end(false);
  try {
    await renew();
  } catch {
    session.isKnown = true; // not reached: what needs an account says so when it is asked for
    session.dispatchEvent(new Event("change"));
  }
}

/** Get a new access token, once for all who wait for one. None if the session has ended. Raises a Problem where that is not known. */
function renew() {
  renewing ??= oneTabAtATime(async () => {
    try {
      begin(await post("/session/refresh", {}), false);
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      end(false);
    }
    return token;
  }).finally(() => {
    renewing = null;
  });
  return renewing;
}

// Each renewal spends the cookie for the next one. Two tabs that spent the same would end the session.
function oneTabAtATime(work) {
  return navigator.locks ? navigator.locks.request("session", work) : work();
}

authorizeWith({
  token: async () => {
    if (session.name === null) return null;
    return token !== null && Date.now() < renewAt ? token : renew();
  },
  renew,
});
