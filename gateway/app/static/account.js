// The account in the corner, and the dialog to sign in.

import { inWords } from "./api.js";
import { makeDialog, onSubmit } from "./dialog.js";
import { h, replace } from "./dom.js";
import { notify } from "./notices.js";
import { changePassword, session, signIn, signOut, signUp } from "./session.js";

/** Keep a place of the page showing who is signed in. */
export function makeAccount(place) {
  const draw = () => {
    if (session.name === null) {
      replace(place, h("button", { type: "button", class: "button", id: "sign-in", onclick: () => askToSignIn() }, "Sign in"));
    } else {
      replace(place,
        h("button", { type: "button", class: "link who", id: "who", title: session.roles.join(", ") || "Your account", onclick: showAccount }, session.name),
        h("button", { type: "button", class: "button", id: "sign-out", onclick: leave }, "Sign out"));
    }
  };
  session.addEventListener("change", draw);
  draw();

  async function leave() {
    try {
      await signOut();
      notify("You are signed out.");
      place.querySelector("button")?.focus();
    } catch (error) {
      notify(inWords(error), "warn");
    }
  }
}

/** Show the account of who is signed in, and let them change its password. */
function showAccount() {
  const before = h("input", { id: "old-password", name: "password", type: "password", required: true, maxlength: "256", autocomplete: "current-password" });
  const after = h("input", { id: "new-password", name: "new-password", type: "password", required: true, maxlength: "256", autocomplete: "new-password" });
  const error = h("p", { class: "form-error", role: "alert" });
  const send = h("button", { class: "button primary wide", id: "send" }, "Change password");
  const form = h("form", { class: "sign-in", onsubmit: onSubmit(send, error, change, told) },
    h("p", { class: "muted" }, `You are ${[session.name, ...session.roles].join(", ")}.`),
    // Who keeps passwords wants to know whose they are.
    h("input", { type: "text", name: "username", autocomplete: "username", value: session.name, hidden: true, readonly: true }),
    h("label", { for: "old-password" }, "Password"), before,
    h("label", { for: "new-password" }, "New password"), after,
    h("p", { class: "help" }, "You are signed out everywhere else."), error, send);
  const dialog = makeDialog("Your account", form);
  dialog.showModal();
  before.focus();

  async function change() {
    await changePassword(before.value, after.value);
    dialog.close();
    notify("Your password is changed.", "good");
  }

  function told(problem) {
    (problem.kind === "weak-password" ? after : before).select();
    return problem.kind === "sign-in-failed" ? "That is not your password." : inWords(problem);
  }
}

/** Ask to sign in or to make an account. Resolves to whether somebody is signed in then. */
export function askToSignIn(reason = "") {
  return new Promise((resolve) => {
    let isNew = false;
    const name = h("input", { id: "name", name: "username", autocomplete: "username", required: true, maxlength: "30", autocapitalize: "off", spellcheck: "false", pattern: "[a-z0-9]([a-z0-9\\-]{0,28}[a-z0-9])?", "aria-describedby": "name-help" });
    const password = h("input", { id: "password", name: "password", type: "password", required: true, maxlength: "256", autocomplete: "current-password" });
    const error = h("p", { class: "form-error", role: "alert" });
    const send = h("button", { class: "button primary wide", id: "send" });
    const other = h("button", { type: "button", class: "link", id: "other", onclick: change });
    const form = h("form", { class: "sign-in", onsubmit: onSubmit(send, error, go, told) },
      h("p", { class: "muted" }, reason),
      h("label", { for: "name" }, "Name"), name,
      h("p", { class: "help", id: "name-help" }, "Small letters, digits and hyphens. Everybody sees it."),
      h("label", { for: "password" }, "Password"), password, error, send,
      h("p", { class: "other" }, other));
    const dialog = makeDialog("Sign in", form);
    dialog.addEventListener("close", () => resolve(session.name !== null));
    draw();
    dialog.showModal();
    name.focus();

    function draw() {
      dialog.querySelector("#dialog-title").textContent = isNew ? "Create an account" : "Sign in";
      send.textContent = isNew ? "Create account" : "Sign in";
      other.textContent = isNew ? "I have an account" : "Create an account";
      password.autocomplete = isNew ? "new-password" : "current-password";
    }

    function change() {
      isNew = !isNew;
      error.textContent = "";
      draw();
    }

    async function go() {
      await (isNew ? signUp : signIn)(name.value, password.value);
      dialog.close();
      notify(`Hello, ${session.name}.`, "good");
    }

    function told(problem) {
      password.select();
      return inWords(problem);
    }
  });
}
