// The view of the photos: choose networks, bring photos, and read what each network sees in each.

import {byId, freeColour, h, percent} from "./dom.js";
import {post} from "./server.js";

const MOST_NETWORKS = 8, AT_THE_SAME_TIME = 4;

const chosen = new Map();  // colours of the chosen networks by name
const boxes = new Map();
const photos = [];  // {file, url, answers: Map of name to prediction, problem, element, …}
let running = 0, hasChosen = false;

/** List the runs that have trained weights. */
export function showNetworks(runs) {
  const usable = runs.filter(run => run.can_predict);
  byId("networks-none").hidden = usable.length > 0;
  for (const [name, box] of boxes) {
    if (usable.some(run => run.name === name)) continue;
    box.closest("label").remove();
    boxes.delete(name);
    chosen.delete(name);
  }
  for (const run of usable) if (!boxes.has(run.name)) addNetwork(run);
  if (!hasChosen && usable.length) {
    hasChosen = true;
    const best = [...usable].sort((a, b) => (b.best_val_accuracy ?? 0) - (a.best_val_accuracy ?? 0));
    choose(best[0].name, true);
  }
}

function addNetwork(run) {
  const box = h("input", {type: "checkbox", onchange: event => choose(run.name, event.target.checked)});
  boxes.set(run.name, box);
  byId("networks").append(h("label", {class: "tick"}, box,
    h("span", {class: "title"}, h("span", {class: "name"}, run.name), h("span", {class: "soft kind"}, `${run.model} on ${run.dataset}`))));
}

function choose(name, isOn) {
  if (isOn) chosen.set(name, freeColour(chosen));
  else chosen.delete(name);
  for (const [other, box] of boxes) {
    box.checked = chosen.has(other);
    box.disabled = !box.checked && chosen.size === MOST_NETWORKS;
    box.style.setProperty("--colour", chosen.get(other) ?? "transparent");
  }
  photos.forEach(draw);
  work();
}

/** Add photos and classify them. */
function add(files) {
  for (const file of files) {
    const photo = {file, url: URL.createObjectURL(file), answers: new Map(), heat: null};
    photo.element = h("article", {class: "card photo", "aria-label": file.name});
    photos.push(photo);
    byId("answers").append(photo.element);
    draw(photo);
  }
  work();
}

const missing = photo => photo.problem ? [] : [...chosen.keys()].filter(name => !photo.answers.has(name));

/** Send the photos that lack an answer, a few at the same time. */
async function work() {
  report();
  while (running < AT_THE_SAME_TIME) {
    const photo = photos.find(one => !one.isSent && missing(one).length);
    if (!photo) return;
    photo.isSent = true;
    running++;
    classify(photo).finally(() => {
      photo.isSent = false;
      running--;
      draw(photo);
      work();
    });
  }
}

async function classify(photo) {
  const form = new FormData(), names = missing(photo);
  form.append("images", photo.file);
  for (const name of names) form.append("runs", name);
  try {
    const {images, skipped} = await (await post("predict", form)).json();
    if (skipped.length) photo.problem = skipped[0].reason;
    else for (const answer of images[0].predictions) photo.answers.set(answer.run, answer);
  } catch (error) {
    photo.problem = error.message;
  }
}

function report() {
  const open = photos.filter(photo => missing(photo).length).length;
  byId("progress").textContent = !photos.length ? ""
    : !chosen.size ? "Choose at least one network."
    : open ? `Classifying ${open} of ${photos.length} photos…` : `${photos.length} ${photos.length === 1 ? "photo" : "photos"} classified.`;
  byId("clear").hidden = !photos.length;
}

function draw(photo) {
  const {file, url, heat} = photo;
  const image = h("img", {src: heat?.url ?? url, alt: heat ? `${file.name} under the Grad-CAM map of ${heat.label}` : file.name});
  image.addEventListener("error", () => image.classList.add("broken"));
  photo.element.replaceChildren(
    h("figure", {}, image, h("figcaption", {}, heat ? `Evidence for ${heat.label}` : file.name)),
    h("div", {class: "verdicts"}, photo.problem
      ? h("p", {class: "notice bad"}, `Cannot be used: ${photo.problem}`)
      : [...chosen].map(([name, colour]) => drawAnswer(photo, name, colour))));
}

function drawAnswer(photo, name, colour) {
  const answer = photo.answers.get(name);
  const title = h("h3", {}, h("i", {class: "swatch", colour}), name);
  if (!answer) return h("section", {class: "verdict", "aria-busy": "true"}, title, h("p", {class: "soft"}, "waiting for the network …"));
  const isShown = photo.heat?.name === name;
  return h("section", {class: "verdict"}, title,
    h("p", {class: "answer"}, h("strong", {}, answer.class), " ", percent(answer.probability, 1),
      answer.probably_none_of_the_classes ? h("span", {class: "chip warn"}, "probably none of the classes") : null),
    h("ol", {class: "ranks", "aria-label": "Likeliest classes"}, ...answer.top5.map(({class: label, probability}) =>
      h("li", {share: probability, colour}, h("span", {class: "name"}, label), h("span", {class: "bar"}), h("span", {class: "value"}, percent(probability, 1))))),
    h("button", {type: "button", class: "link", "aria-pressed": isShown ? "true" : "false", onclick: () => explain(photo, name, answer.class)},
      isShown ? "Show the photo" : "Show where it looks"));
}

/** Show the Grad-CAM map of a class in place of the photo, or the photo again. */
async function explain(photo, name, label) {
  const before = photo.heat;
  photo.heat = null;
  if (before) URL.revokeObjectURL(before.url);
  if (before?.name !== name) {
    const form = new FormData();
    form.append("images", photo.file);
    form.append("runs", name);
    form.append("class", label);
    try {
      const picture = await (await post("grad_cam", form)).blob();
      photo.heat = {name, label: `${label}, by ${name}`, url: URL.createObjectURL(picture)};
    } catch (error) {
      byId("progress").textContent = error.message;
    }
  }
  const index = [...chosen.keys()].indexOf(name);
  draw(photo);
  photo.element.querySelectorAll("button")[index]?.focus();
}

function clear() {
  for (const photo of photos.splice(0)) {
    URL.revokeObjectURL(photo.url);
    if (photo.heat) URL.revokeObjectURL(photo.heat.url);
    photo.element.remove();
  }
  report();
}

for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", event => {
    add(event.target.files);
    event.target.value = "";
  });
}
byId("clear").addEventListener("click", clear);
const view = byId("photos"), zone = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  view.addEventListener(kind, event => {
    event.preventDefault();
    zone.classList.add("over");
  });
}
view.addEventListener("dragleave", event => {
  if (!view.contains(event.relatedTarget)) zone.classList.remove("over");
});
view.addEventListener("drop", event => {
  event.preventDefault();
  zone.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", event => {
  if (!view.hidden) add(event.clipboardData.files);
});
