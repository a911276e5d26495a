// Follows the leaderboard: calls back when it has changed, as long as somebody can see it.

import { events } from "./stream.js";

const TOGETHER_MS = 120; // changes that come together are one look

/** Call `onChange(event)` when somebody has solved something, and `onState` when the stream is live or waits. */
export function followLeaderboard(signal, onChange, onState = () => {}) {
  let ending = null;
  let timer;

  async function listen() {
    ending?.abort();
    ending = new AbortController();
    const own = ending.signal;
    try {
      for await (const { event, data } of events("/api/leaderboard/topics/changes", { signal: AbortSignal.any([signal, own]), anonymous: true, onState })) {
        clearTimeout(timer);
        timer = setTimeout(() => onChange(event === "leaderboard-changed" ? data : null), TOGETHER_MS);
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
