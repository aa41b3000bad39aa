// What a text must be as a whole: the field `response_format`, chosen and written down.

import { el } from "./dom.js";

const NAME = "response_format";

/** Each kind: what it is called, how its text becomes the field, and an example of such a text. */
const KINDS = {
  "": { label: "any text" },
  json: { label: "a JSON object", make: () => ({ type: "json_object" }) },
  schema: {
    label: "JSON of a schema",
    hint: "a JSON schema",
    example: '{"type": "object",\n "properties": {\n  "name": {"type": "string", "maxLength": 20},\n  "age": {"type": "integer", "minimum": 0, "maximum": 120}},\n "required": ["name", "age"],\n "additionalProperties": false}',
    make: (text) => ({ type: "json_schema", json_schema: { name: "text", schema: object(text) } }),
  },
  regex: {
    label: "a match of a pattern",
    hint: "a regular expression for the whole text",
    example: "(Yes|No), [a-z ]{5,60}\\.",
    make: (text) => ({ type: "regex", regex: text }),
  },
  choice: {
    label: "one of several",
    hint: "one a line; spaces count",
    example: " yes\n no\n perhaps",
    make: (text) => ({ type: "choice", choices: text.split("\n").filter((line) => line !== "") }),
  },
};

/** A row of the settings. `read()` gives the field's value, if it has one, or throws an Error. */
export function createFormat(prefix) {
  const id = `${prefix}-${NAME}`;
  const options = Object.entries(KINDS).map(([value, { label }]) => el("option", { value }, label));
  const select = el("select", { id, autocomplete: "off", "data-field": NAME }, ...options);
  const hint = el("p", { class: "hint", id: `${id}-hint` });
  const text = el("textarea", { class: "line", id: `${id}-text`, rows: 3, spellcheck: "false", autocomplete: "off", "aria-describedby": hint.id, "data-hint": hint.id, hidden: true });
  const row = el(
    "div",
    { class: "setting format" },
    el("div", { class: "pair" }, el("label", { for: id }, "Form"), select),
    text,
    hint,
    el("p", { class: "error", "data-error": NAME }),
  );
  const texts = {}; // of each kind, so that a look at another one loses nothing
  let shown = "";
  select.addEventListener("change", () => {
    texts[shown] = text.value;
    shown = select.value;
    const { hint: about = "", example } = KINDS[shown];
    text.hidden = !example;
    text.value = texts[shown] ?? example ?? "";
    text.setAttribute("aria-label", about);
    hint.textContent = about;
    // Errors belong to what has to be corrected.
    (example ? text : select).dataset.field = NAME;
    delete (example ? select : text).dataset.field;
  });
  return { row, read: () => KINDS[select.value].make?.(text.value) };
}

function object(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`is no JSON (${error.message})`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("must be a JSON object");
  return value;
}
