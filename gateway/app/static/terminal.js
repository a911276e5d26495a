// Shows what a program wrote. Colours and weights of a terminal are kept, its other commands are left out, and what would be invisible is shown.

import { h } from "./dom.js";

// An escape sequence: CSI, a string (OSC, DCS, ...) with its end, or a short one; and one that the text ends within.
const SEQUENCE = /\x1b(?:\[([0-?]*)([ -/]*)([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ`-~])/y;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]*)$/;
const INVISIBLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;

const shownAs = (character) => {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
};

/** What one stream's text looks like from here on. */
class Style {
  colour = null;
  flags = new Set();

  get classes() {
    return [this.colour === null ? null : `ansi-${this.colour}`, ...[...this.flags].map((flag) => `ansi-${flag}`)].filter(Boolean).join(" ");
  }

  apply(parameters) {
    const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map(Number);
    for (let index = 0; index < codes.length; index++) {
      const code = codes[index];
      if (code === 0) {
        this.colour = null;
        this.flags.clear();
      } else if (code === 38 || code === 48) {
        const one = codes[index + 1] === 5;
        // Of 256 colours the first sixteen are those of the page; others might not be readable on it.
        if (code === 38) this.colour = one && codes[index + 2] < 16 ? codes[index + 2] : null;
        index += one ? 2 : 4;
      } else if (code >= 30 && code <= 37) this.colour = code - 30;
      else if (code >= 90 && code <= 97) this.colour = code - 82;
      else if (code === 39) this.colour = null;
      else if (code === 22) this.flags.delete("bold"), this.flags.delete("dim");
      else if (FLAGS[code]) this.flags.add(FLAGS[code]);
      else if (FLAGS[code - 20]) this.flags.delete(FLAGS[code - 20]);
    }
  }
}

const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike" };

/** Writes into an element, piece by piece as the pieces come. */
export class Terminal {
  #streams = new Map();

  constructor(element) {
    this.element = element;
  }

  clear() {
    this.#streams.clear();
    this.element.replaceChildren();
  }

  /** Write some text of `stdout` or `stderr`. */
  write(stream, text) {
    const state = this.#streams.get(stream) ?? { style: new Style(), rest: "" };
    this.#streams.set(stream, state);
    let whole = state.rest + text;
    const cut = UNFINISHED.exec(whole) ?? /\r$/.exec(whole);
    state.rest = cut ? cut[0] : "";
    whole = whole.slice(0, whole.length - state.rest.length);
    this.#show(stream, state, whole);
  }

  /** Show what was held back because more could have followed. */
  finish() {
    for (const [stream, state] of this.#streams) {
      const { rest } = state;
      state.rest = "";
      if (rest) this.#show(stream, state, rest);
    }
  }

  #show(stream, state, text) {
    const pieces = document.createDocumentFragment();
    let plain = "";
    const flush = () => {
      if (!plain) return;
      const classes = [stream === "stderr" ? "stderr" : "", state.style.classes].filter(Boolean).join(" ");
      pieces.append(classes ? h("span", { class: classes }, plain) : plain);
      plain = "";
    };
    for (let index = 0; index < text.length; ) {
      SEQUENCE.lastIndex = index;
      const sequence = text[index] === "\x1b" ? SEQUENCE.exec(text) : null;
      if (sequence) {
        if (sequence[3] === "m" && !sequence[2]) {
          flush();
          state.style.apply(sequence[1]);
        }
        index += sequence[0].length;
      } else if (text.startsWith("\r\n", index)) {
        index += 1; // the line ends all the same
      } else if (INVISIBLE.test(text[index])) {
        flush();
        pieces.append(h("span", { class: "control", title: "a character that has no picture" }, shownAs(text[index])));
        index += 1;
      } else {
        plain += text[index];
        index += 1;
      }
    }
    flush();
    this.element.append(pieces);
  }
}
