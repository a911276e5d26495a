// The editor: CodeMirror, with the page's colours. Loaded when a view needs it.

import {
  Compartment, EditorState, EditorView, HighlightStyle, StreamLanguage, bracketMatching, c, closeBrackets, closeBracketsKeymap, defaultKeymap,
  highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, history, historyKeymap, indentOnInput, indentUnit, indentWithTab,
  javascript, keymap, lineNumbers, python, shell, syntaxHighlighting, tags,
} from "./vendor/codemirror.js";

const LANGUAGES = { python, javascript, bash: shell, c };

// The editor writes style sheets of its own; the page's policy allows those with this number.
const nonce = document.querySelector("link[nonce]")?.nonce ?? "";

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier, tags.self], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp, tags.character], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom, tags.escape], color: "var(--code-number)" },
  { tag: [tags.comment, tags.meta, tags.processingInstruction], color: "var(--code-comment)" },
  { tag: [tags.definition(tags.variableName), tags.function(tags.variableName), tags.definition(tags.function(tags.variableName))], color: "var(--code-name)" },
  { tag: [tags.standard(tags.variableName), tags.typeName, tags.className], color: "var(--code-type)" },
  { tag: tags.invalid, color: "var(--bad)" },
]);

const theme = EditorView.theme({
  "&": { height: "100%", color: "var(--text)", backgroundColor: "transparent" },
  "&.cm-focused": { outline: "none" }, // the frame around it shows the focus
  ".cm-scroller": { fontFamily: "var(--mono)", fontSize: "var(--code-size)", lineHeight: "1.6", overscrollBehavior: "auto" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--accent)" },
  ".cm-line": { padding: "0 16px 0 6px" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--muted)", border: "none", paddingLeft: "6px" },
  ".cm-activeLine": { backgroundColor: "var(--active-line)" },
  ".cm-activeLineGutter": { backgroundColor: "transparent", color: "var(--text)" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--match)" },
  "&.cm-focused .cm-nonmatchingBracket": { backgroundColor: "transparent", color: "var(--bad)" },
  ".cm-specialChar": { color: "var(--bad)" },
});

/**
 * Make an editor.
 *
 * The Tab key indents. Escape lets the next Tab leave the editor instead, until it is entered again.
 */
export function makeEditor(parent, { text, language, label, describedBy, isReadOnly = false, onChange = () => {}, commands = [] }) {
  const mode = new Compartment();
  const leave = { key: "Escape", run: (view) => (view.setTabFocusMode(true), true) };
  const view = new EditorView({
    parent,
    state: stateOf(text, language),
  });

  function stateOf(content, id) {
    return EditorState.create({
      doc: content,
      extensions: [
        EditorView.cspNonce.of(nonce),
        keymap.of(commands.map(({ key, run }) => ({ key, run: () => (run(), true), preventDefault: true }))),
        keymap.of([leave, ...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, indentWithTab]),
        lineNumbers(),
        highlightSpecialChars(),
        history(),
        indentOnInput(),
        bracketMatching(),
        closeBrackets(),
        syntaxHighlighting(colours),
        theme,
        EditorView.lineWrapping,
        isReadOnly ? [EditorState.readOnly.of(true)] : [highlightActiveLine(), highlightActiveLineGutter()],
        mode.of(modeOf(id)),
        EditorView.contentAttributes.of({
          "aria-label": label, ...(describedBy ? { "aria-describedby": describedBy } : {}),
          autocapitalize: "off", autocorrect: "off", spellcheck: "false",
        }),
        EditorView.domEventHandlers({ beforeinput: typeOver, blur: (_, blurred) => (blurred.setTabFocusMode(false), false) }),
        EditorView.updateListener.of((update) => update.docChanged && onChange(update.state.doc.toString())),
      ],
    });
  }

  return {
    get text() {
      return view.state.doc.toString();
    },
    /** Show another program, with a history of its own. */
    show(content, id) {
      view.setState(stateOf(content, id));
    },
    /** Write another program in the place of this one; it can be undone. */
    write(content) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: content } });
    },
    focus: () => view.focus(),
    close: () => view.destroy(),
  };
}

// What is typed over a selection would get the colour of what was there, as an inline style by the browser itself: the page's policy refuses
// that with a complaint. So the editor takes it before the browser does.
function typeOver(event, view) {
  const { from, to, empty } = view.state.selection.main;
  const text = event.data;
  if (event.inputType !== "insertText" || !text || empty || view.composing || view.state.readOnly) return false;
  const insert = () => view.state.update(view.state.replaceSelection(text), { userEvent: "input.type", scrollIntoView: true });
  if (!view.state.facet(EditorView.inputHandler).some((handle) => handle(view, from, to, text, insert))) view.dispatch(insert());
  event.preventDefault();
  return true;
}

function modeOf(id) {
  const width = indentUnit.of(id === "javascript" ? "  " : "    ");
  return LANGUAGES[id] ? [StreamLanguage.define(LANGUAGES[id]), width] : [width];
}
