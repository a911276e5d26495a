// A program of one's own.

import { h } from "../dom.js";
import { languages } from "../languages.js";
import { sample } from "../samples.js";
import { makeWorkbench } from "../workbench.js";

export async function view({ signal }) {
  const workbench = makeWorkbench({ place: "playground", available: await languages(), begin: sample, signal });
  return {
    title: "Playground",
    kind: "full free",
    node: [h("h1", { class: "hidden-words", tabindex: "-1" }, "Playground"), workbench.node],
  };
}
