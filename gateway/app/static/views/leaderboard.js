// The leaderboard, of all challenges or of one. It moves as verdicts arrive.

import { ask, inWords } from "../api.js";
import { ago, duration, h, replace } from "../dom.js";
import { followLeaderboard, oneAtATime } from "../live.js";
import { languageName } from "../samples.js";
import { session } from "../session.js";
import { allChallenges } from "./challenges.js";

const PLACES = 100;
const MOVE_MS = 450;
const NAMED = 3; // more people than this are told as a number

const overall = {
  caption: "Who has solved the most challenges",
  heads: ["Solved", "Attempts", "Last solved"],
  get: (signal) => ask("leaderboard/get-standings", { limit: PLACES }, { signal, anonymous: true, cache: "no-cache" }),
  cells: (place, count) => [[meter(place.solved, count), place.solved], place.attempts, ago(place.last_solved_at)],
};

const ofOne = (slug) => ({
  caption: "Who has solved it the fastest",
  heads: ["Time", "Attempts", "Language"],
  get: (signal) => ask("leaderboard/get-solvers", { challenge: slug, limit: PLACES }, { signal, anonymous: true, cache: "no-cache" }),
  cells: (place) => [duration(place.duration_ms), place.attempts, languageName(place.language)],
});

export async function view({ parameter: slug, signal }) {
  const kind = slug === null ? overall : ofOne(slug);
  const [first, challenges] = await Promise.all([kind.get(signal), allChallenges(signal)]);
  const body = h("tbody");
  const told = h("p", { class: "hidden-words", role: "status" });
  const live = h("span", { class: "live", id: "live" }, "live");
  const total = h("p", { class: "muted" });
  const nobody = h("p", { class: "empty" }, "Nobody has solved anything yet. ", h("a", { href: "#/challenges" }, "Be the first."));
  const choice = h("select", { id: "board", onchange: () => (location.hash = choice.value ? `/leaderboard/${choice.value}` : "/leaderboard") },
    h("option", { value: "" }, "All challenges"),
    challenges.map((each) => h("option", { value: each.slug, ".selected": each.slug === slug }, each.title)),
    slug !== null && !challenges.some((each) => each.slug === slug) && h("option", { value: slug, ".selected": true }, slug)); // it was withdrawn
  const rows = new Map();
  const news = new Set(); // who has solved something since it was drawn

  function draw(standings, changed = new Set()) {
    const before = new Map([...rows].map(([name, row]) => [name, row.getBoundingClientRect().top]));
    const isFirst = rows.size === 0;
    const present = new Set(standings.places.map((place) => place.name));
    for (const name of [...rows.keys()]) if (!present.has(name)) rows.delete(name);
    for (const place of standings.places) {
      if (!rows.has(place.name)) rows.set(place.name, h("tr"));
      const row = rows.get(place.name);
      row.className = place.name === session.name ? "is-me" : "";
      replace(row, h("td", { class: "rank" }, place.rank), h("th", { scope: "row", class: "name" }, place.name), kind.cells(place, challenges.length).map((cell, index) => h("td", { class: `number ${index === 1 ? "roomy" : ""}` }, cell)));
    }
    body.replaceChildren(...standings.places.map((place) => rows.get(place.name)));
    total.textContent = standings.total === 1 ? "1 person" : `${standings.total} people`;
    nobody.hidden = standings.total > 0;
    table.hidden = standings.total === 0;
    if (isFirst) return;
    move(rows, before, changed);
  }

  const load = oneAtATime(async () => {
    const names = new Set(news);
    try {
      const standings = await kind.get(signal);
      for (const name of names) news.delete(name);
      draw(standings, names);
      if (names.size) told.textContent = solvedWords([...names]);
    } catch (error) {
      if (!signal.aborted) told.textContent = inWords(error);
    }
  });

  const table = h("table", { class: "board" },
    h("caption", { class: "hidden-words" }, kind.caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "rank" }, h("abbr", { title: "Place" }, "#")), h("th", { scope: "col" }, "Name"), kind.heads.map((each, index) => h("th", { scope: "col", class: `number ${index === 1 ? "roomy" : ""}` }, each)))),
    body);
  draw(first);
  followLeaderboard(signal, (changes) => {
    const own = (changes ?? []).filter((each) => slug === null || each.challenge === slug);
    for (const each of own) news.add(each.name);
    if (changes === null || own.length) load();
  }, (state) => {
    live.classList.toggle("is-live", state === "live");
    live.textContent = state === "live" ? "live" : "connecting …";
  });
  return {
    title: "Leaderboard",
    node: [
      h("header", { class: "page-head" }, h("h1", { tabindex: "-1" }, "Leaderboard"), live, total, h("span", { class: "stretch" }), h("label", { class: "hidden-words", for: "board" }, "Of"), choice),
      table, nobody, told,
    ],
  };
}

/** Say who has solved something. */
function solvedWords(names) {
  if (names.length > NAMED) return `${names.length} people have solved challenges.`;
  return names.length === 1 ? `${names[0]} has solved a challenge.` : `${names.slice(0, -1).join(", ")} and ${names.at(-1)} have solved challenges.`;
}

/** Show a part of a whole as a bar; the number beside it says it in words. */
function meter(part, whole) {
  const bar = h("i");
  bar.style.width = `${whole ? Math.min(100, (100 * part) / whole) : 0}%`;
  return h("span", { class: "meter", "aria-hidden": "true" }, bar);
}

/** Let rows glide from where they were, and light up those that have changed. Who wants no motion gets the light only. */
function move(rows, before, changed) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const [name, row] of rows) {
    const was = before.get(name);
    const by = was === undefined ? 0 : was - row.getBoundingClientRect().top;
    if (by && !still) row.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: MOVE_MS, easing: "cubic-bezier(.2,.7,.2,1)" });
    if (changed.has(name) || was === undefined) {
      row.classList.add("is-new");
      setTimeout(() => row.classList.remove("is-new"), 2500);
    }
  }
}
