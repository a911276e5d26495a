// What the playground needs of CodeMirror, as one module. ../../editor.js is its only reader.
// The languages are the small stream parsers: the full grammars would add half as much again.
import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { HighlightStyle, StreamLanguage, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { c } from "@codemirror/legacy-modes/mode/clike";
import { javascript } from "@codemirror/legacy-modes/mode/javascript";
import { python } from "@codemirror/legacy-modes/mode/python";
import { shell } from "@codemirror/legacy-modes/mode/shell";
import { Compartment, EditorState } from "@codemirror/state";
import { EditorView, highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

export {
  Compartment, EditorState, EditorView, HighlightStyle, StreamLanguage, bracketMatching, c, closeBrackets, closeBracketsKeymap,
  defaultKeymap, highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, history, historyKeymap, indentOnInput,
  indentUnit, indentWithTab, javascript, keymap, lineNumbers, python, shell, syntaxHighlighting, tags,
};
