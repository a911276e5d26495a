// A dialog that tells the keys.

import { MOD, h } from "./dom.js";
import { makeDialog } from "./dialog.js";

const KEYS = [
  [[MOD, "Enter"], "Run the program"],
  [[MOD, "Shift", "Enter"], "Submit it, where there is a challenge"],
  [[MOD, "."], "Stop the run"],
  [["Tab"], "Indent, in the editor"],
  [["Esc", "Tab"], "Leave the editor: one key after the other"],
  [[MOD, "Z"], "Undo"],
  [["←", "→"], "Change between Output and Verdict"],
];

export function showKeys() {
  const rows = KEYS.map(([keys, words]) => h("div", {}, h("dt", {}, keys.map((key) => [h("kbd", {}, key), " "])), h("dd", {}, words)));
  makeDialog("Keyboard", h("dl", { class: "keys" }, rows)).showModal();
}
