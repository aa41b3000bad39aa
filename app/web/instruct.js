// Instruct: an instruction, perhaps with an input, and the answer as it comes.

import { Problem, stream } from "./api.js";
import { showCommand } from "./curl.js";
import { announce, byId, copy, el } from "./dom.js";
import { generationSummary } from "./generation-summary.js";
import { Run } from "./run.js";
import { createSettings } from "./settings.js";

const EXAMPLES = [
  ["Passive voice", "Rewrite the following sentence in the passive voice.", "The gardener watered the flowers."],
  ["Past tense", "Change the sentence to the past tense.", "They play football every day."],
  ["Future tense", "Rewrite the sentence in the future tense.", "He reads a book."],
  ["Question", "Turn the sentence into a question.", "She is happy."],
  ["Grammar", "Correct the grammar in the sentence.", "She have a new car."],
  ["Plural", "What is the plural of the word?", "child"],
];

export function startInstruct() {
  const defaults = { temperature: 0, max_new_tokens: 128, n: null, ignore_eos: null };
  const settings = createSettings(byId("instruct-settings"), defaults);
  const fields = { instruction: byId("instruction"), input: byId("input") };
  const answer = byId("answer");

  const request = () => {
    const { values, errors } = settings.read();
    const input = fields.input.value === "" ? {} : { input: fields.input.value };
    return { errors, body: { instruction: fields.instruction.value, ...input, ...values, stream: true } };
  };
  const command = showCommand("instruct", () => ["instruct", request().body]);

  const run = new Run("instruct", async (signal, say) => {
    const { body, errors } = request();
    if (body.instruction.trim() === "") errors.push({ field: "instruction", message: "Say what is to be done." });
    if (errors.length) throw new Problem({ status: 422, errors });
    answer.textContent = "";
    byId("instruct-copy").disabled = true;
    answer.classList.add("live");
    say("Waiting for the first token…");
    let last = {};
    try {
      for await (const event of stream("instruct", body, { signal, onwait: say })) {
        say("");
        answer.append(event.text);
        last = event;
      }
    } finally {
      answer.classList.remove("live");
      byId("instruct-copy").disabled = answer.textContent === "";
    }
    say(generationSummary(last, body));
    announce(`Answer: ${answer.textContent}`);
  });

  const fill = ([, instruction, input]) => {
    fields.instruction.value = instruction;
    fields.input.value = input;
    command();
  };
  for (const example of EXAMPLES) {
    const use = () => (run.stop(), fill(example), fields.input.focus());
    byId("examples").append(el("button", { type: "button", class: "chip", click: use }, example[0]));
  }
  fill(EXAMPLES[0]);
  byId("instruct-copy").addEventListener("click", (event) => copy(event.currentTarget, answer.textContent));
}
