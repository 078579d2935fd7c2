// Elements and texts. Strings from the server become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "colour") element.style.setProperty("--colour", value);
    else if (name === "share") element.style.setProperty("--share", `${100 * value}%`);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return an element. Attributes that begin with "on" are listeners. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Return an element of an SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export const byId = id => document.getElementById(id);

export const percent = (value, digits = 2) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;

/** Return a number with about four digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")} min`;
}

/** Return an estimate of a time: minutes, and seconds only if there are few. */
export const roughly = seconds =>
  seconds < 90 ? `${Math.max(5, 5 * Math.round(seconds / 5))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

/** Return the first colour that no entry of a Map has, if there is one. */
export function freeColour(colours) {
  const used = new Set(colours.values());
  return COLOURS.find(colour => !used.has(colour));
}

/** Visible on white and on black, and told apart by most colour-blind readers. */
export const COLOURS = [
  "#2f7ed8", "#f08020", "#2ca25f", "#d6453d", "#9a6fd0",
  "#a8744f", "#df6bb0", "#7f8a96", "#b3a41a", "#17a3b5",
];
