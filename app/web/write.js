// Write: a text and its continuation on one page.

import { Aligner } from "./align.js";
import { Problem, stream } from "./api.js";
import { Choices } from "./choices.js";
import { showCommand } from "./curl.js";
import { announce, byId, copy } from "./dom.js";
import { generationSummary } from "./generation-summary.js";
import { Run } from "./run.js";
import { createSettings } from "./settings.js";
import { Tokens } from "./tokens.js";

const TOP = 5;

const textOf = (pieces) => pieces.map((piece) => piece.text).join("");

export function startWrite() {
  const prompt = byId("prompt");
  const settings = createSettings(byId("write-settings"), { temperature: 0.7, top_p: 0.95 });
  const tokens = new Tokens(byId("tokens"), byId("alternatives"), (index, text, byKey) => {
    const kept = choices.current.slice(0, index);
    run.restart([...kept, { text, tokens: [], chosen: true }]).then(() => byKey && tokens.focus(index));
  });
  const choices = new Choices(byId("choices"), (pieces) => {
    tokens.reset(pieces);
    refresh();
  });
  const run = new Run("write", (signal, say, prefix) => write(signal, say, prefix ?? choices.current));

  const request = (prefix) => {
    const { values, errors } = settings.read();
    return { errors, body: { prompt: prompt.value + textOf(prefix), ...values, logprobs: TOP, stream: true } };
  };
  const command = showCommand("write", () => ["generate", request(choices.current).body]);

  async function write(signal, say, prefix) {
    const { body, errors } = request(prefix);
    if (body.response_format && textOf(prefix) !== "")
      errors.push({ field: "response_format", message: "is for a text as a whole: “Try again” begins a new one" });
    if (errors.length) throw new Problem({ status: 422, errors });
    const kept = prefix.filter((piece) => piece.text);
    const count = body.n ?? 1;
    const aligners = Array.from({ length: count }, () => new Aligner());
    choices.reset(Array.from({ length: count }, () => [...kept]));
    byId("writing").hidden = false;
    say("Waiting for the first token…");
    let last = {};
    try {
      for await (const event of stream("generate", body, { signal, onwait: say })) {
        say("");
        const aligner = aligners[event.index];
        const pieces = aligner.push(event.text, event.logprobs ?? []);
        if (event.finish_reason) pieces.push(...aligner.flush());
        for (const piece of pieces) {
          choices.append(event.index, piece);
          if (event.index === choices.shown) tokens.append(piece);
        }
        last = { ...last, ...event };
      }
    } finally {
      byId("writing").hidden = true;
      refresh();
    }
    say(generationSummary(last, body));
    announce(`Written: ${textOf(choices.current.slice(kept.length))}`);
  }

  function refresh() {
    byId("prompt-copy").textContent = prompt.value;
    const none = choices.current.length === 0;
    for (const name of ["again", "edit", "copy"]) byId(`write-${name}`).disabled = none;
    byId("legend").hidden = none || !byId("tint").checked;
    command();
  }

  const replace = (text) => {
    run.stop();
    prompt.value = text;
    choices.reset([[]]);
    run.say("");
    prompt.focus();
  };
  prompt.addEventListener("input", refresh);
  byId("write-again").addEventListener("click", () => run.restart([]));
  byId("write-edit").addEventListener("click", () => replace(prompt.value + textOf(choices.current)));
  byId("write-clear").addEventListener("click", () => replace(""));
  byId("write-copy").addEventListener("click", (event) => copy(event.currentTarget, prompt.value + textOf(choices.current)));
  byId("tint").addEventListener("change", (event) => {
    byId("manuscript").classList.toggle("plain", !event.target.checked);
    refresh();
  });
  choices.reset([[]]);
}
