// The settings of sampling: a form from a table, and its values as fields of a request.

import { el } from "./dom.js";
import { createFormat } from "./format.js";

const FIELDS = {
  temperature: { label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.7, always: true, hint: "0 always takes the likeliest token" },
  top_p: { label: "Top-p", min: 0.05, max: 1, step: 0.05, value: 1, hint: "the likeliest tokens that reach this share" },
  min_p: { label: "Min-p", min: 0, max: 1, step: 0.01, value: 0, hint: "at least this share of the likeliest one" },
  top_k: { label: "Top-k", number: true, min: 1, placeholder: "all", hint: "this many of the likeliest tokens" },
  max_new_tokens: { label: "Length", min: 1, max: 256, step: 1, value: 64, always: true, hint: "most tokens to write" },
  n: { label: "Choices", min: 1, max: 8, step: 1, value: 1, hint: "side by side" },
  seed: { label: "Seed", number: true, min: 0, placeholder: "random", hint: "the same one gives the same text" },
  repetition_penalty: { label: "Repetition", min: 1, max: 2, step: 0.05, value: 1, hint: "makes known tokens less likely" },
  presence_penalty: { label: "Presence", min: -2, max: 2, step: 0.1, value: 0 },
  frequency_penalty: { label: "Frequency", min: -2, max: 2, step: 0.1, value: 0 },
  stop: { label: "Stop strings", lines: true, hint: "one a line, up to 8; \\n is a line break" },
  ignore_eos: { label: "Go on after the end token", check: true },
};
const GROUPS = [
  ["", ["temperature", "top_p", "max_new_tokens", "n", "seed"]],
  ["More", ["top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "ignore_eos"]],
];

/** Fill `place`; `defaults` replace values of the table, null leaves a field out. */
export function createSettings(place, defaults = {}, onchange = () => {}) {
  const inputs = new Map();
  const format = createFormat(place.id);
  for (const [title, names] of GROUPS) {
    const rows = names.filter((name) => defaults[name] !== null).map((name) => {
      const field = { ...FIELDS[name], name, id: `${place.id}-${name}` };
      if (name in defaults) field.value = defaults[name];
      const { row, input } = build(field);
      inputs.set(name, { field, input });
      return row;
    });
    place.append(...(title ? [el("details", { class: "more" }, el("summary", {}, title), ...rows)] : rows));
  }
  place.querySelector("details.more").before(format.row);
  place.addEventListener("input", onchange);
  return { read: () => read(inputs, format) };
}

function build(field) {
  const label = el("label", { for: field.id }, field.label);
  const hint = field.hint && el("p", { class: "hint", id: `${field.id}-hint` }, field.hint);
  const shared = { id: field.id, "data-field": field.name, autocomplete: "off" };
  const error = el("p", { class: "error", "data-error": field.name });
  const row = el("div", { class: "setting" });
  let input;
  if (field.check) {
    input = el("input", { ...shared, type: "checkbox" });
    row.append(el("label", { class: "check" }, input, ` ${field.label}`), error);
  } else if (field.lines) {
    input = el("textarea", { ...shared, class: "line", rows: 2, spellcheck: "false" });
    row.append(label, input, hint, error);
  } else {
    input = el("input", { ...shared, type: "text", inputmode: "decimal", placeholder: field.placeholder });
    input.value = field.value ?? "";
    row.append(el("div", { class: "pair" }, label, input));
    if (!field.number) row.append(slider(field, input));
    row.append(...(hint ? [hint] : []), error);
  }
  if (hint) {
    input.dataset.hint = hint.id;
    input.setAttribute("aria-describedby", hint.id);
  }
  return { row, input };
}

/** A slider tied to the box beside it, which also takes values outside of the slider's range. */
function slider(field, input) {
  const { min, max, step } = field;
  const range = el("input", { type: "range", min, max, step, "aria-label": field.label });
  const fill = () => range.style.setProperty("--at", (range.value - min) / (max - min));
  range.value = field.value;
  fill();
  range.addEventListener("input", () => {
    input.value = range.value;
    fill();
  });
  input.addEventListener("input", () => {
    if (input.value.trim() !== "") range.value = input.value;
    fill();
  });
  return range;
}

/** The fields that are not as the service has them by default. `error` is for a bad number. */
function read(inputs, format) {
  const values = {};
  const errors = [];
  for (const [name, { field, input }] of inputs) {
    if (field.check) {
      if (input.checked) values[name] = true;
    } else if (field.lines) {
      const lines = input.value.split("\n").filter((line) => line !== "");
      if (lines.length) values[name] = lines.map(unescape);
    } else {
      const text = input.value.trim();
      if (text === "") continue;
      const number = Number(text);
      if (!Number.isFinite(number)) errors.push({ field: name, message: `“${text}” is no number` });
      else if (Math.abs(number) > Number.MAX_SAFE_INTEGER)
        errors.push({ field: name, message: `at most ${Number.MAX_SAFE_INTEGER} here` });
      else if (field.always || number !== FIELDS[name].value) values[name] = number;
    }
  }
  try {
    const value = format.read();
    if (value) values.response_format = value;
  } catch (error) {
    errors.push({ field: "response_format", message: error.message });
  }
  return { values, errors };
}

const unescape = (line) =>
  line.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);
