// Before anything is painted: the colours that somebody chose, where they differ from the system's. A plain script, so that it runs first.
"use strict";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  const name = localStorage.getItem("name");
  if (name) document.documentElement.dataset.signedIn = "";
} catch {
  // Storage may be forbidden; the system's colours are right then.
}
