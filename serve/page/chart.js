// A line chart as SVG: axes, lines, a reading that follows the pointer or the arrow keys, a table.

import {h, short, svg} from "./dom.js";

const HEIGHT = 240, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 30;

/** Return about `count` round values that cover [low, high]. */
export function roundTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
}

function powerTicks(low, high) {
  const ticks = [];
  for (let i = Math.floor(Math.log10(low)); 10 ** i <= high * 1.001; i++) {
    for (const factor of high / low > 2000 ? [1] : [1, 2, 5]) {
      const value = factor * 10 ** i;
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
    }
  }
  return ticks;
}

/** A chart of one metric; `update` draws it again with other series. */
export class Chart {
  // options: title, format (value => text), bottom and top (limits of the axis), log.
  constructor(options) {
    this.options = options;
    this.series = [];
    this.at = null;
    this.plot = svg("svg", {
      tabindex: 0, role: "img", height: HEIGHT,
      onpointermove: event => this.#point(event),
      onpointerleave: () => this.#read(null),
      onblur: () => this.#read(null),
      onkeydown: event => this.#step(event),
    });
    this.reading = h("div", {class: "reading", hidden: true});
    this.spoken = h("p", {class: "unseen", "aria-live": "polite"});
    this.table = h("details", {class: "table", ontoggle: () => this.#fillTable()}, h("summary", {}, "Table"));
    this.element = h("figure", {class: "card chart"},
      h("figcaption", {}, options.title, h("span", {class: "soft"}, " by epoch")),
      h("div", {class: "plot"}, this.plot, this.reading), this.spoken, this.table);
    new ResizeObserver(() => this.#draw()).observe(this.plot.parentElement);
  }

  // series: [{name, kind, colour, dashed, values}], where values[i] is that of epoch i + 1.
  update(series) {
    this.series = series.filter(one => one.values.some(value => value !== null));
    this.element.hidden = this.series.length === 0;
    this.#draw();
    this.#fillTable();
  }

  #scales(width) {
    const values = this.series.flatMap(one => one.values).filter(value => value !== null);
    this.epochs = Math.max(...this.series.map(one => one.values.length), 1);
    let low = Math.min(...values), high = Math.max(...values);
    this.log = Boolean(this.options.log) && low > 0 && high / low > 20;
    if (!this.log) {
      const margin = 0.06 * (high - low || Math.abs(high) || 1);
      low = Math.max(low - margin, this.options.bottom ?? -Infinity);
      high = Math.min(high + margin, this.options.top ?? Infinity);
    }
    const scale = this.log ? Math.log : value => value;
    const span = scale(high) - scale(low) || 1;
    this.y = value => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (scale(value) - scale(low)) / span);
    this.x = epoch => LEFT + (width - LEFT - RIGHT) * (this.epochs === 1 ? 0.5 : (epoch - 1) / (this.epochs - 1));
    return this.log ? powerTicks(low, high) : roundTicks(low, high, 5);
  }

  #draw() {
    const width = this.plot.parentElement.clientWidth;
    if (!width || !this.series.length) return;
    const ticks = this.#scales(width);
    const marks = ticks.map(value => [
      svg("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value)}),
      svg("text", {class: "tick end", x: LEFT - 8, y: this.y(value) + 4}, this.options.format(value, true)),
    ]);
    const epochs = roundTicks(1, this.epochs, Math.max(2, Math.min(8, width / 70)))
      .filter(epoch => Number.isInteger(epoch) && epoch >= 1);
    if (epochs[0] !== 1 && this.x(epochs[0]) - this.x(1) > 24) epochs.unshift(1);
    const numbers = epochs.map(epoch =>
      svg("text", {class: "tick middle", x: this.x(epoch), y: HEIGHT - BOTTOM + 19}, String(epoch)));
    this.guide = svg("g", {class: "guide"});
    this.plot.replaceChildren(
      ...marks.flat(), ...numbers,
      svg("line", {class: "axis", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM}),
      ...this.series.map(one => this.#line(one)), this.guide);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.setAttribute("width", width);
    this.plot.setAttribute("aria-label", `${this.options.title} by epoch. ${this.#summary()} Arrow keys read single epochs.`);
    this.#read(this.at);
  }

  #line({colour, dashed, values}) {
    const points = values.map((value, i) => value === null ? null : [this.x(i + 1), this.y(value)]);
    const known = points.filter(Boolean);
    if (known.length === 1) return svg("circle", {class: "dot", colour, cx: known[0][0], cy: known[0][1], r: 3.5});
    let path = "", pen = "M";
    for (const point of points) {
      if (point) path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      pen = point ? "L" : "M";
    }
    return svg("path", {class: dashed ? "curve dashed" : "curve", colour, d: path});
  }

  #summary() {
    return this.series.slice(0, 8).map(one => {
      const value = one.values.findLast(number => number !== null);
      return `${one.name}, ${one.kind}: ${this.options.format(value)} after ${one.values.length} epochs.`;
    }).join(" ");
  }

  #point(event) {
    if (!this.x) return;
    const box = this.plot.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    this.#read(Math.min(this.epochs, Math.max(1, Math.round(1 + share * (this.epochs - 1)))));
  }

  #step(event) {
    const last = this.epochs, at = this.at ?? last;
    const next = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 1, End: last,
      PageUp: at - 10, PageDown: at + 10}[event.key];
    if (event.key === "Escape") this.#read(null);
    if (next === undefined) return;
    event.preventDefault();
    this.#read(Math.min(last, Math.max(1, this.at === null ? last : next)));
    const texts = this.#valuesAt(this.at).map(([one, value]) => `${one.name} ${one.kind} ${this.options.format(value)}`);
    this.spoken.textContent = `Epoch ${this.at}: ${texts.join(", ")}`;
  }

  #valuesAt(epoch) {
    return this.series.map(one => [one, one.values[epoch - 1] ?? null]).filter(([, value]) => value !== null);
  }

  #read(epoch) {
    this.at = epoch;
    this.reading.hidden = epoch === null;
    this.guide?.replaceChildren();
    if (epoch === null || !this.guide) return;
    const x = this.x(epoch), values = this.#valuesAt(epoch);
    this.guide.append(svg("line", {x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM}),
      ...values.map(([one, value]) => svg("circle", {class: "dot", colour: one.colour, cx: x, cy: this.y(value), r: 3.5})));
    this.reading.replaceChildren(h("strong", {}, `Epoch ${epoch}`), ...values.map(([one, value]) =>
      h("span", {}, h("i", {class: one.dashed ? "line dashed" : "line", colour: one.colour}),
        h("span", {class: "name"}, one.name), h("b", {}, this.options.format(value)))));
    const width = this.plot.clientWidth;
    this.reading.classList.toggle("left", x > width / 2);
    this.reading.style.setProperty("--x", `${x > width / 2 ? width - x + 10 : x + 10}px`);
  }

  #fillTable() {
    this.table.querySelector(".scroll")?.remove();
    if (!this.table.open || !this.series.length) return;
    const rows = Array.from({length: this.epochs}, (_, i) => h("tr", {},
      h("th", {scope: "row"}, i + 1),
      ...this.series.map(one => h("td", {}, one.values[i] === null || one.values[i] === undefined ? "–" : this.options.format(one.values[i])))));
    const heads = this.series.map(one => h("th", {scope: "col"}, `${one.name}, ${one.kind}`));
    this.table.append(h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": this.options.title},
      h("table", {}, h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Epoch"), ...heads)), h("tbody", {}, ...rows))));
  }
}

/** Formats of values; ticks are shorter than readings. */
export const asPercent = (value, isTick) =>
  isTick ? `${Number((100 * value).toFixed(1))}%` : `${(100 * value).toFixed(2)} %`;
export const asNumber = value => short(value);
