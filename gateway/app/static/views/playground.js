// A program of one's own.

import { h } from "../dom.js";
import { sample } from "../samples.js";
import { languages, makeWorkbench } from "../workbench.js";

export async function view({ signal }) {
  const offered = await languages();
  const workbench = makeWorkbench({ place: "playground", offered, begin: sample, signal });
  return {
    title: "Playground",
    kind: "full free",
    node: [h("h1", { class: "hidden-words", tabindex: "-1" }, "Playground"), workbench.node],
  };
}
