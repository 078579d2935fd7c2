// The page: its two views, and the list of runs that both show.

import {byId} from "./dom.js";
import {showNetworks} from "./photos.js";
import {showRuns} from "./runs.js";
import {get, poll} from "./server.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab, focus) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  document.title = tab.textContent;
  if (focus) tab.focus();
}

function selectByAddress() {
  select(tabs.find(tab => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    select(tab);
  });
  tab.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(i + step + tabs.length) % tabs.length];
    next.click();
    select(next, true);
  });
}
addEventListener("hashchange", selectByAddress);
selectByAddress();

poll(async () => {
  const {runs} = await get("runs");
  showNetworks(runs);
  await showRuns(runs);
  return runs.some(run => run.state === "training") ? 2 : 5;
});
