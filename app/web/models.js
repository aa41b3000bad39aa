// What is served, from /models: the names at the foot of the page, and which tasks have a model.

import { Problem, get, pause } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { keyGiven } from "./key.js";

const AGAIN = 1500;

const size = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** The models, once they are loaded; until then the page says what it waits for. */
export async function loadModels() {
  for (;;) {
    try {
      const { models } = await get("models", { onwait: notice });
      notice("");
      show(models);
      return models;
    } catch (error) {
      notice(error instanceof Problem ? error.message : String(error));
      await (error.status === 401 ? keyGiven() : pause(AGAIN));
    }
  }
}

function notice(text) {
  const place = byId("notice");
  if (place.textContent === text) return;
  place.textContent = text;
  place.hidden = text === "";
  if (text) announce(text);
}

function show(models) {
  byId("models").replaceChildren(
    ...models.map((model) => {
      const own = model.adapter_parameters;
      const parameters = own === null ? size.format(model.parameters) : `+${size.format(own)}`;
      const told = own === null ? `${model.parameters} parameters` : `an adapter of ${own} parameters`;
      const title = `${told}, SHA-256 ${model.sha256}`;
      return el("li", { title }, el("b", {}, model.name), ` ${parameters} `, el("code", {}, model.sha256.slice(0, 8)));
    }),
  );
}
