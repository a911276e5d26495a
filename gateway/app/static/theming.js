// The colours: those of the system, or the others, by a button.

import { load, save } from "./storage.js";

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

/** Let a button change between light and dark. What is the system's own is not kept, so that it follows the system again. */
export function makeTheme(button) {
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const name = () => {
    const words = `Use ${isDark() ? "light" : "dark"} colours`;
    button.setAttribute("aria-label", words);
    button.title = words;
  };
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    if ((wanted === "dark") === system.matches) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    save("theme", root.dataset.theme ?? null);
    name();
  });
  system.addEventListener("change", name);
  if (load("theme") === (system.matches ? "dark" : "light")) save("theme", null);
  name();
}
