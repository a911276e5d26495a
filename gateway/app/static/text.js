// Shows an author's plain text: paragraphs, lists, blocks, `code` and **strong** words. It makes elements; markup in the text stays text.

import { h } from "./dom.js";

// What would be a command to a display, or invisible, or is nothing yet, but for line breaks and tabs. The module submissions does the same.
const CONTROL = /(?![\n\t])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/gu;

/** Spell out the characters of a stranger's text that would do something to the page or hide in it, such as those that turn its direction. */
export function visible(text) {
  return text.replace(/\r\n/g, "\n").replace(CONTROL, (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\\u{${code.toString(16)}}`;
  });
}

const ITEM = /^\s{0,3}[-*] +/;
const NUMBERED = /^\s{0,3}\d+[.)] +/;
const BLOCK = /^( {4}|\t)/;

/** Make the elements of a text. */
export function formatted(text) {
  const blocks = [];
  let lines = [];
  let fence = null;
  const flush = () => {
    if (lines.length) blocks.push(...blockOf(lines));
    lines = [];
  };
  for (const line of visible(text.replace(/\r\n?/g, "\n")).split("\n")) {
    if (/^\s{0,3}```/.test(line)) {
      if (fence === null) {
        flush();
        fence = [];
      } else {
        blocks.push(h("pre", {}, h("code", {}, fence.join("\n"))));
        fence = null;
      }
    } else if (fence !== null) {
      fence.push(line);
    } else if (line.trim()) {
      lines.push(line);
    } else {
      flush();
    }
  }
  if (fence !== null) lines = ["```", ...fence];
  flush();
  return blocks;
}

function blockOf(lines) {
  if (lines.every((line) => BLOCK.test(line))) {
    return [h("pre", {}, h("code", {}, lines.map((line) => line.replace(BLOCK, "")).join("\n")))];
  }
  for (const [start, tag] of [[ITEM, "ul"], [NUMBERED, "ol"]]) {
    if (!start.test(lines[0])) continue;
    const items = [];
    for (const line of lines) {
      if (start.test(line)) items.push(line.replace(start, ""));
      else items[items.length - 1] += ` ${line.trim()}`;
    }
    return [h(tag, {}, items.map((item) => h("li", {}, spans(item))))];
  }
  const heading = /^#{1,4} +(.+)$/.exec(lines[0]);
  if (heading && lines.length === 1) return [h("h3", {}, spans(heading[1]))];
  return [h("p", {}, spans(lines.join("\n")))];
}

function spans(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (/^`[^`]+`$/.test(part)) return h("code", {}, part.slice(1, -1));
    if (/^\*\*[^*]+\*\*$/.test(part)) return h("strong", {}, part.slice(2, -2));
    return part;
  });
}
