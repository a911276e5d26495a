// Makes elements. What is given as a child becomes a text, never markup: texts of strangers go through here.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes by name, listeners as `onclick`, properties such as `value` as `.value`; false and null leave out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Put these in the place of all that an element has. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

const PATHS = {
  play: "M7 4.8v14.4a.6.6 0 0 0 .9.5l11.6-7.2a.6.6 0 0 0 0-1L7.9 4.3a.6.6 0 0 0-.9.5z",
  check: "M4.5 12.5l5 5 10-11",
  cross: "M6 6l12 12M18 6L6 18",
  clock: "M12 7v5.2l3.4 2M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z",
  dash: "M6 12h12",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
  lock: "M7.5 11V8a4.5 4.5 0 0 1 9 0v3M6 11h12v9H6z",
};

/** Make a small picture; what it means has to stand in words beside it. */
export function icon(name, size = 16) {
  const filled = name === "play";
  const drawn = svg("path", { d: PATHS[name], fill: filled ? "currentColor" : "none" });
  if (!filled) {
    drawn.setAttribute("stroke", "currentColor");
    drawn.setAttribute("stroke-width", "2.2");
    drawn.setAttribute("stroke-linecap", "round");
    drawn.setAttribute("stroke-linejoin", "round");
  }
  return svg("svg", { viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true", class: "icon" }, drawn);
}

/** Tell how long ago something was, in words; the whole date is its title. */
export function ago(seconds) {
  const then = new Date(seconds * 1000);
  const passed = Math.max(0, (Date.now() - then.getTime()) / 1000);
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  const [unit, size] = units.find((each) => passed >= each[1]) ?? [null, 1];
  const words = unit ? new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(passed / size), unit) : "just now";
  return h("time", { datetime: then.toISOString(), title: then.toLocaleString() }, words);
}

/** Tell a duration in words. */
export function duration(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}

/** The name of a key for shortcuts on this machine. */
export const MOD = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";
