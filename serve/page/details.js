// The details of one run: results, settings, pictures and report.

import {byId, h, short} from "./dom.js";
import {address, get} from "./server.js";

const show = value => value === "" ? "''" : typeof value === "number" ? short(value) : typeof value === "string" ? value : JSON.stringify(value);

function table(caption, entries, isOpen) {
  if (!entries.length) return null;
  return h("details", {open: isOpen}, h("summary", {}, caption),
    h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": caption},
      h("table", {class: "facts"}, h("tbody", {}, ...entries.map(([name, value]) =>
        h("tr", {}, h("th", {scope: "row"}, name), h("td", {}, show(value))))))));
}

function picture(run, name) {
  const source = address("figure", {run, name}), title = name.split("/").pop().replace(/\.png$/, "").replaceAll("_", " ");
  return h("a", {href: source, target: "_blank", rel: "noopener"},
    h("img", {src: source, alt: `${title} of ${run}`, loading: "lazy"}), h("span", {}, title));
}

/** Show the details of a run below the curves, and move there. */
export async function showDetails(name) {
  const section = byId("details");
  const heading = h("h2", {tabindex: -1}, name);
  const close = h("button", {type: "button", class: "link", onclick: () => { section.hidden = true; }}, "Close");
  let content;
  try {
    const run = await get("run", {run: name});
    const settings = Object.entries(run.config);
    content = [
      h("p", {class: "soft"}, run.title, " · ", h("code", {}, run.path)),
      run.has_report
        ? h("p", {}, h("a", {href: address("report", {run: name}), target: "_blank", rel: "noopener"}, "Open the report"))
        : null,
      h("div", {class: "pair"},
        table("Results", Object.entries(run.results), true),
        table("Settings that differ from the defaults", settings.filter(([field]) => run.changed.includes(field)), true)),
      table("All settings", settings, false),
      run.figures.length ? h("h3", {}, "Pictures") : null,
      h("div", {class: "pictures"}, ...run.figures.map(figure => picture(name, figure))),
    ];
  } catch (error) {
    content = [h("p", {class: "notice bad"}, error.message)];
  }
  section.replaceChildren(h("div", {class: "heading"}, heading, close), ...content.filter(Boolean));
  section.hidden = false;
  heading.focus({preventScroll: true});
  section.scrollIntoView({block: "start"});
}
