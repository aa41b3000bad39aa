// Classify: messages pasted, and what each is taken for.

import { Problem, get, post } from "./api.js";
import { coloured, listed } from "./attributions.js";
import { showCommand } from "./curl.js";
import { announce, byId, el, percent, plural } from "./dom.js";
import { startTableFile } from "./table-file.js";
import { Run } from "./run.js";

const UNSURE = "unsure";
const DEFAULT_LIMITS = { max_batch: 32, max_body_bytes: 1 << 20 };
const MOST_LABELS = 6;

export function startClassify() {
  const messages = byId("messages");
  const options = createOptions(byId("classify-settings"));
  const limits = get("web/settings.json").catch(() => DEFAULT_LIMITS);
  let model = null;

  const texts = () => {
    const all = options.lines() ? messages.value.split(/\r?\n/) : [messages.value];
    return all.map((text) => text.trim()).filter((text) => text !== "");
  };
  const request = (list) => ({ text: list.length === 1 ? list[0] : list, ...options.read() });
  const command = showCommand("classify", () => ["classify", request(texts())]);

  const run = new Run("classify", async (signal, say) => {
    const list = texts();
    if (!list.length) throw new Problem({ status: 422, errors: [{ field: "text", message: "Paste a message first." }] });
    const { max_batch: most } = await limits;
    byId("results").replaceChildren();
    say("Reading…");
    const started = performance.now();
    for (let at = 0; at < list.length; at += most) {
      const part = list.slice(at, at + most);
      const { results } = await post("classify", request(part), { signal, onwait: say });
      results.forEach((result, i) => byId("results").append(card(part[i], result, model, options.marks())));
      say(`${at + part.length} of ${plural(list.length, "message")}`);
    }
    say(`${plural(list.length, "message")} in ${Math.round(performance.now() - started)} ms`);
    const labels = [...document.querySelectorAll("#results .label")].map((label) => label.dataset.label);
    announce(labels.length === 1 ? `The label is ${labels[0]}.` : `Labels: ${labels.join(", ")}`);
  });

  byId("classify-clear").addEventListener("click", () => {
    run.stop();
    messages.value = "";
    byId("results").replaceChildren();
    run.say("");
    command();
    messages.focus();
  });
  startTableFile({ limits, options: () => options.forFiles(), model: () => model });
  return {
    /** The model that answers by default, from /models. */
    setModel(card) {
      model = card;
      options.setModel(card);
    },
  };
}

function createOptions(place) {
  const check = (label, checked, hint) => {
    const input = el("input", { type: "checkbox", checked });
    place.append(el("div", { class: "setting" }, el("label", { class: "check" }, input, ` ${label}`), ...(hint ? [el("p", { class: "hint" }, hint)] : [])));
    return input;
  };
  const explain = check("Explain", true, "how much each word contributed");
  explain.dataset.field = "explain";
  const lines = check("One message a line", true);
  lines.addEventListener("change", () => (byId("messages-hint").textContent = lines.checked ? "one a line" : "one"));
  const truncate = check("Cut long messages", true, "reads as much as the model’s context holds, and says so");
  const threshold = numberRow(place, "threshold", "Threshold");
  const low = numberRow(place, "unsure_band", "Unsure from");
  const high = numberRow(place, "unsure_to", "Unsure up to", "between the two, the label is “unsure”");
  threshold.row.hidden = true;
  const chosen = () => {
    const values = {};
    const at = threshold.row.hidden ? null : threshold.read();
    if (at !== null) values.threshold = at;
    const band = [low.read(), high.read()];
    if (band.some((value) => value !== null)) values.unsure_band = [band[0] ?? 0, band[1] ?? 1];
    return values;
  };
  const valid = () => {
    try {
      return chosen();
    } catch {
      return {};
    }
  };
  return {
    lines: () => lines.checked,
    /** The threshold and the band that bars are to show. */
    marks: () => valid(),
    read: () => ({ ...(explain.checked && { explain: true }), ...(truncate.checked && { truncate: true }), ...chosen() }),
    forFiles: () => chosen(),
    setModel(card) {
      threshold.row.hidden = card.threshold === null;
      threshold.input.placeholder = card.threshold?.toFixed(2) ?? "";
      threshold.hint.textContent = `probability from which it is ${card.positive}`;
    },
  };
}

/** A box for a probability. `read()` throws a problem for what is none. */
function numberRow(place, name, label, note = "") {
  const input = el("input", { type: "text", inputmode: "decimal", id: `classify-${name}`, "data-field": name, autocomplete: "off", placeholder: "none", "data-hint": `classify-${name}-hint` });
  const hint = el("p", { class: "hint", id: input.dataset.hint }, note);
  const pair = el("div", { class: "pair" }, el("label", { for: input.id }, label), input);
  const row = el("div", { class: "setting" }, pair, hint, el("p", { class: "error", "data-error": name }));
  input.setAttribute("aria-describedby", hint.id);
  place.append(row);
  const read = () => {
    const text = input.value.trim();
    if (text === "") return null;
    const number = Number(text);
    if (number >= 0 && number <= 1) return number;
    throw new Problem({ status: 422, errors: [{ field: name, message: "must be between 0 and 1" }] });
  };
  return { row, input, hint, read };
}

/** A result: the label, how probable it is, and the text. */
function card(text, result, model, { threshold, unsure_band: band }) {
  const { label, score, probabilities, attributions, truncated, tokens } = result;
  const positive = model?.positive in probabilities ? model.positive : null;
  const kind = label === UNSURE ? "is-unsure" : label === positive ? "is-positive" : "is-other";
  const badge = el("b", { class: "label", "data-label": label }, label);
  const head = el("header", {}, badge, ...chances(result, positive, threshold ?? model?.threshold, band));
  const lean = result.leaning ? [el("p", { class: "hint" }, `leaning towards ${result.leaning}`)] : [];
  const cut = truncated ? [el("p", { class: "hint" }, `Only the first ${tokens} tokens were read.`)] : [];
  const shown = attributions
    ? [coloured(text, attributions), ...lean, ...cut, listed(text, attributions)]
    : [el("p", { class: "words prose" }, text), ...lean, ...cut];
  const title = `${label}, ${percent(score)}`;
  return el("li", { class: kind }, el("article", { "aria-label": title }, head, ...shown));
}

/** Bars: of the positive label with its threshold, or of the most probable labels. */
function chances({ probabilities }, positive, threshold, band) {
  const names = Object.keys(probabilities);
  const ranked = names.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, MOST_LABELS);
  return (positive && names.length === 2 ? [positive] : ranked).map((name) => {
    const bar = el("span", { class: "chance-bar", "aria-hidden": "true" }, el("i", {}));
    bar.style.setProperty("--share", probabilities[name]);
    if (name === positive && band) {
      const zone = el("s", {});
      zone.style.setProperty("--from", band[0]);
      zone.style.setProperty("--to", band[1]);
      bar.append(zone);
    }
    if (name === positive && threshold) {
      const tick = el("u", {});
      tick.style.setProperty("--at", threshold);
      bar.append(tick);
    }
    return el("p", { class: "chance" }, el("span", {}, name), bar, el("span", { class: "number" }, percent(probabilities[name])));
  });
}
