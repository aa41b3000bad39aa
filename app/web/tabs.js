// The tabs: one at a time, arrow keys, and the address's #part so that a tab can be linked.

import { el } from "./dom.js";

const tabs = () => [...document.querySelectorAll('[role="tab"]')];
const panelOf = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

function select(chosen, focus = false) {
  for (const tab of tabs()) {
    const is = tab === chosen;
    tab.setAttribute("aria-selected", String(is));
    tab.tabIndex = is ? 0 : -1;
    panelOf(tab).hidden = !is;
  }
  if (focus) chosen.focus();
  history.replaceState(null, "", `#${panelOf(chosen).id}`);
}

export function startTabs() {
  const named = () => tabs().find((tab) => `#${panelOf(tab).id}` === location.hash);
  if (named()) select(named());
  addEventListener("hashchange", () => named() && select(named()));
  for (const tab of tabs()) tab.addEventListener("click", () => select(tab));
  document.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
    const all = tabs();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(all[(to + all.length) % all.length], true);
  });
}

/** Say in each panel whether a model answers it. `served` holds the tasks that have one. */
export function showServed(served) {
  const tasks = { write: "generate", instruct: "instruct", classify: "classify" };
  for (const tab of tabs()) {
    const panel = panelOf(tab);
    const task = tasks[panel.id];
    const missing = !served.has(task);
    tab.classList.toggle("absent", missing);
    panel.classList.toggle("absent", missing);
    panel.querySelector(".missing")?.remove();
    if (!missing) continue;
    const told = `No model here answers /${task}. The set of models that this service was started with has none for it.`;
    panel.prepend(el("p", { class: "missing" }, told));
  }
  const current = tabs().find((tab) => tab.getAttribute("aria-selected") === "true");
  const first = tabs().find((tab) => !tab.classList.contains("absent"));
  if (current.classList.contains("absent") && first && !location.hash) select(first);
}
