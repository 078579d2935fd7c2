// The view of the runs: a list with their progress, and the curves of those that are ticked.

import {Chart, asNumber, asPercent} from "./chart.js";
import {showDetails} from "./details.js";
import {COLOURS, byId, duration, freeColour, h, percent, roughly} from "./dom.js";
import {get} from "./server.js";

const MOST_AT_FIRST = 3, FILTER_FROM = 8;
const STATES = {training: "training", finished: "finished", stopped: "stopped", unreadable: "cannot be read"};

const colours = new Map();  // of the ticked runs, by name
const rowsOf = new Map();  // rows of metrics by name of the run
const lines = new Map();  // elements of the list by name
let summaries = [], isUntouched = true;  // until the reader ticks a run

const CHARTS = [
  {chart: new Chart({title: "Accuracy", format: asPercent, bottom: 0, top: 1}), metric: "accuracy"},
  {chart: new Chart({title: "Loss", format: asNumber, bottom: 0, log: true}), metric: "loss"},
  {chart: new Chart({title: "Learning rate", format: asNumber, bottom: 0, log: true}), single: "learning_rate"},
  {chart: new Chart({title: "Images per second", format: asNumber, bottom: 0}), single: "images_per_second"},
];
byId("charts").append(...CHARTS.map(({chart}) => chart.element));
byId("filter").addEventListener("input", () => list());

/** Show the runs as the server lists them, and fetch the new epochs of those that are ticked. */
export async function showRuns(runs) {
  summaries = runs;
  const isNew = isUntouched && chooseFirst();
  for (const name of colours.keys()) if (!runs.some(run => run.name === name)) colours.delete(name);
  list();
  const isLonger = await Promise.all([...colours.keys()].map(fetchRows));
  if (isNew || isLonger.some(Boolean)) drawCharts();
}

/** Tick a few runs: those that are training, or else those with the best results. */
function chooseFirst() {
  const score = run => (run.state === "training" && run.epochs ? 2 : 0) + (run.best_val_accuracy ?? 0);
  const best = summaries.filter(run => run.epochs).sort((a, b) => score(b) - score(a));
  const added = best.slice(0, MOST_AT_FIRST).filter(run => !colours.has(run.name));
  const wanted = colours.size === 0 ? added : added.filter(run => run.state === "training");
  for (const run of wanted) tick(run.name);
  return wanted.length > 0;
}

function tick(name) {
  colours.set(name, freeColour(colours) ?? COLOURS[colours.size % COLOURS.length]);
}

async function fetchRows(name) {
  const run = summaries.find(one => one.name === name), known = rowsOf.get(name) ?? [];
  if (!run?.epochs || run.epochs === known.length) return false;
  const after = run.epochs > known.length ? known.length : 0;  // a run that was started anew has fewer
  const {rows} = await get("metrics", {run: name, after});
  rowsOf.set(name, [...known.slice(0, after), ...rows]);
  return true;
}

function drawCharts() {
  byId("curves").hidden = colours.size === 0;
  const pick = (name, metric) => (rowsOf.get(name) ?? []).map(row => row[metric] ?? null);
  for (const {chart, metric, single} of CHARTS) {
    chart.update([...colours].flatMap(([name, colour]) => single
      ? [{name, kind: "", colour, values: pick(name, single)}]
      : [{name, kind: "validation", colour, values: pick(name, `val_${metric}`)},
         {name, kind: "training", colour, dashed: true, values: pick(name, `train_${metric}`)}]));
  }
}

async function toggle(name, isOn) {
  isUntouched = false;
  if (isOn) tick(name);
  else colours.delete(name);
  list();
  if (isOn) await fetchRows(name).catch(() => null);
  drawCharts();
}

function list() {
  const live = summaries.filter(run => run.state === "training").length;
  byId("runs-count").textContent = summaries.length
    ? `${summaries.length} ${summaries.length === 1 ? "run" : "runs"}${live ? `, ${live} training` : ""}`
    : "No runs yet. A run appears here as soon as it starts.";
  byId("filter").hidden = summaries.length < FILTER_FROM;
  const filter = byId("filter").value.trim().toLowerCase();
  for (const [name, line] of lines) {
    if (summaries.some(run => run.name === name)) continue;
    line.element.remove();
    lines.delete(name);
  }
  for (const run of summaries) {
    if (!lines.has(run.name)) lines.set(run.name, makeLine(run.name));
    fillLine(lines.get(run.name), run);
    lines.get(run.name).element.hidden = !run.name.toLowerCase().includes(filter);
  }
  // Runs that train come first. Elements are moved only if that changes, to keep the focus.
  const order = [...summaries].sort((a, b) => (b.state === "training") - (a.state === "training"));
  const elements = order.map(run => lines.get(run.name).element);
  const current = [...byId("run-list").children];
  if (elements.some((element, i) => element !== current[i])) byId("run-list").replaceChildren(...elements);
}

function makeLine(name) {
  const line = {
    box: h("input", {type: "checkbox", onchange: event => toggle(name, event.target.checked)}),
    kind: h("span", {class: "soft kind"}),
    state: h("span", {class: "chip"}),
    progress: h("progress", {}),
    left: h("span", {class: "soft"}),
    figures: h("dl", {class: "figures"}),
  };
  const more = h("button", {type: "button", class: "link", "aria-label": `Details of ${name}`, onclick: () => showDetails(name)}, "Details");
  line.element = h("div", {class: "run"},
    h("label", {class: "tick"}, line.box, h("span", {class: "title"}, h("span", {class: "name"}, name), line.kind)),
    h("div", {class: "state"}, h("span", {class: "state-line"}, line.state, line.left), line.progress),
    line.figures, more);
  return line;
}

function fillLine(line, run) {
  line.box.checked = colours.has(run.name);
  line.box.disabled = run.state === "unreadable";
  line.box.style.setProperty("--colour", colours.get(run.name) ?? "transparent");
  line.kind.textContent = run.problem ?? `${run.model} on ${run.dataset}${run.num_seeds > 1 ? `, ${run.num_seeds} seeds` : ""}`;
  line.state.textContent = STATES[run.state];
  line.state.className = `chip ${run.state}`;
  const isLive = run.state === "training";
  line.progress.hidden = !isLive;
  if (isLive) {
    line.progress.max = run.num_epochs || 1;
    line.progress.value = run.epochs;
    line.progress.setAttribute("aria-label", `${run.epochs} of ${run.num_epochs} epochs`);
  }
  line.left.textContent = isLive
    ? (run.seconds_left === null ? "first epoch" : `about ${roughly(run.seconds_left)} left`)
    : run.seconds ? duration(run.seconds) : "";
  const figures = [
    ["Epochs", run.num_epochs === undefined ? "–" : run.epochs === run.num_epochs ? run.epochs : `${run.epochs} / ${run.num_epochs}`],
    ["Validation", percent(run.val_accuracy)],
    [`Test, used ${run.test_uses ?? 0} ×`, percent(run.test_accuracy)],
  ];
  line.figures.replaceChildren(...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
