// Follows the leaderboard: calls back when it has changed, as long as somebody can see it.

import { events } from "./stream.js";

const TOGETHER_MS = 120; // changes that come together are one look

/**
 * Call `onChange(changes)` with all that was solved since the last call, or with null where it is not known what has changed; and `onState` when
 * the stream is live or waits. It is called soon after the first change of several, however many follow it.
 */
export function followLeaderboard(signal, onChange, onState = () => {}) {
  let ending = null;
  let timer = null;
  let changes = [];

  function note(change) {
    changes.push(change);
    timer ??= setTimeout(tell, TOGETHER_MS);
  }

  function tell() {
    const told = changes.includes(null) ? null : changes;
    timer = null;
    changes = [];
    onChange(told);
  }

  async function listen() {
    ending?.abort();
    ending = new AbortController();
    const own = ending.signal;
    try {
      for await (const { event, data } of events("/api/leaderboard/topics/changes", { signal: AbortSignal.any([signal, own]), anonymous: true, onState })) {
        note(event === "leaderboard-changed" ? data : null);
      }
    } catch {
      onState("waiting"); // it cannot be followed; what was loaded stays
    }
  }

  // A browser has six connections to a server for all of its tabs; one that nobody looks at gives its own back.
  function onVisibility() {
    if (document.hidden) {
      ending?.abort();
    } else {
      onChange(null);
      listen();
    }
  }

  document.addEventListener("visibilitychange", onVisibility);
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onVisibility);
  });
  if (!document.hidden) listen();
}

/** Make work that is done by one at a time: what is asked for meanwhile is done once more, when that one is over. */
export function oneAtATime(work) {
  let isWorking = false;
  let isStale = false;
  return async () => {
    isStale = true;
    if (isWorking) return;
    isWorking = true;
    try {
      while (isStale) {
        isStale = false;
        await work();
      }
    } finally {
      isWorking = false;
    }
  };
}
