// What went wrong, in plain words and beside the field that it is about.

import { el } from "./dom.js";

const PLAIN = {
  401: "The service needs an API key, and has none from you.",
  403: "This key may not do that.",
  413: "This is more text than the service takes at once.",
  429: "The queue is still full. Try again in a moment.",
  500: "Something went wrong inside the service.",
  504: "This took longer than the service allows.",
};
/** Which field a problem without `errors` is about. */
const ABOUT = { "context-length": ["prompt", "text", "instruction"], "explain-length": ["text"] };

export function clearProblem(panel) {
  panel.querySelector(".problem").hidden = true;
  for (const place of panel.querySelectorAll("[data-error]")) place.textContent = "";
  for (const field of panel.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    describe(field, "");
  }
}

export function showProblem(panel, problem) {
  clearProblem(panel);
  const errors = [...(problem.errors ?? [])];
  const about = ABOUT[problem.kind]?.find((name) => fieldOf(panel, name));
  if (about && !errors.length) errors.push({ field: about, message: problem.message });
  const rest = errors.filter((error) => !beside(panel, error));
  panel.querySelector("[aria-invalid]")?.focus();
  if (errors.length && !rest.length) return;
  const box = panel.querySelector(".problem");
  const known = PLAIN[problem.status];
  const detail = rest.map((error) => `${error.field}: ${error.message}`).join("; ") || problem.message;
  box.replaceChildren(known ?? detail);
  if (known && detail) box.append(el("small", {}, detail));
  if (problem.requestId) box.append(el("small", {}, `Request ${problem.requestId}`));
  box.hidden = false;
}

/** A field is described by its hint, if it has one, and by its error. */
function describe(field, errorId) {
  const ids = [field.dataset.hint, errorId].filter(Boolean).join(" ");
  if (ids) field.setAttribute("aria-describedby", ids);
  else field.removeAttribute("aria-describedby");
}

const fieldOf = (panel, name) => panel.querySelector(`[data-field="${CSS.escape(name)}"]`);

/** Whether the panel has a place for this error. */
function beside(panel, error) {
  const name = /^\w+/.exec(error.field)?.[0] ?? "";
  const field = fieldOf(panel, name);
  const place = panel.querySelector(`[data-error="${CSS.escape(name)}"]`);
  if (!field || !place) return false;
  const part = error.field === name ? "" : `${error.field}: `;
  place.textContent += (place.textContent && "; ") + part + error.message;
  place.id ||= `error-${panel.id}-${name}`;
  field.setAttribute("aria-invalid", "true");
  describe(field, place.id);
  for (let box = field.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  return true;
}
