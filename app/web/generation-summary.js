// How a generation ended and how fast it was, in a line.

import { plural } from "./dom.js";

const REASONS = { length: "the length was reached", stop: "a stop string came", eos: "the model ended it" };

/** With `response_format`, a text ends where nothing can follow, and is whole only if it was not cut. */
const REASONS_OF_FORMS = {
  length: "the length was reached, so this is only its beginning",
  stop: "it is whole",
  eos: "it is whole",
};

/**
 * @param last the last event of the stream
 * @param body what was asked for
 */
export function generationSummary({ finish_reason: reason, usage, timings }, body) {
  if (!usage || !timings) return "";
  const reasons = body.response_format && !(reason === "stop" && body.stop) ? REASONS_OF_FORMS : REASONS;
  const parts = [plural(usage.completion_tokens, "token")];
  if (timings.decode > 0) parts.push(`${Math.round(usage.completion_tokens / timings.decode)} a second`);
  const first = (timings.queue + timings.prefill) * 1000;
  parts.push(`the first after ${first < 10 ? first.toFixed(1) : Math.round(first)} ms`, reasons[reason] ?? reason);
  return parts.join(" · ");
}
