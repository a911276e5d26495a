// Tabs, as the ARIA practices have them: one is in the order of Tab, arrows go to the others.

import { h } from "./dom.js";

let count = 0;

/** Make tabs of `[name, content]` pairs. All panels take the same place, so nothing moves when another is chosen. */
export function makeTabs(label, pairs) {
  const id = `tabs-${++count}`;
  const tabs = pairs.map(([name], index) =>
    h("button", { type: "button", role: "tab", id: `${id}-${index}`, "aria-controls": `${id}-${index}-panel`, onclick: () => select(index) }, name));
  const panels = pairs.map(([, content], index) =>
    h("div", { role: "tabpanel", id: `${id}-${index}-panel`, "aria-labelledby": `${id}-${index}`, class: "tab-panel" }, content));
  const list = h("div", { role: "tablist", "aria-label": label, class: "tabs", onkeydown: move }, tabs);

  function select(chosen) {
    tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
  }

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    select(next);
    tabs[next].focus();
  }

  select(0);
  return { list, panels, select };
}
