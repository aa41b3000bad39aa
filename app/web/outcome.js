// How a generation ended and how fast it was, in a line.

import { plural } from "./dom.js";

const REASONS = { length: "the length was reached", stop: "a stop string came", eos: "the model ended it" };

/** @param last the last event of the stream */
export function outcome({ finish_reason: reason, usage, timings }) {
  if (!usage || !timings) return "";
  const parts = [plural(usage.completion_tokens, "token")];
  if (timings.decode > 0) parts.push(`${Math.round(usage.completion_tokens / timings.decode)} a second`);
  const first = (timings.queue + timings.prefill) * 1000;
  parts.push(`the first after ${first < 10 ? first.toFixed(1) : Math.round(first)} ms`, REASONS[reason] ?? reason);
  return parts.join(" · ");
}
