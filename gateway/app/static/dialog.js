// A dialog over the page. The browser keeps the focus in it and gives it back.

import { h } from "./dom.js";

/** Return what handles a form's submit: it does the work, once at a time, and shows what `told` makes of an error. */
export function onSubmit(button, place, work, told) {
  return async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    place.textContent = "";
    try {
      await work();
    } catch (error) {
      place.textContent = told(error);
    } finally {
      button.setAttribute("aria-disabled", "false");
    }
  };
}

/** Make a dialog; it goes when it is closed. */
export function makeDialog(title, ...content) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title),
      h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => dialog.close() }, "✕")),
    content);
  // A press on what is around it closes it; a selection that is drawn out of a field does not.
  dialog.addEventListener("pointerdown", (event) => {
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (event.target === dialog && !inside) dialog.close();
  });
  document.body.append(dialog);
  return dialog;
}
