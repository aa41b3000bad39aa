// A text with its words coloured by what they contributed to the label, and with signs and numbers.

import { align } from "./align.js";
import { el, signed } from "./dom.js";

const NUMBERED = 6;
/** Less than this share of the largest contribution is left uncoloured. */
const SLIGHT = 0.06;

/**
 * Contributions of words from those of tokens: `{before, word, value}`, `before` being the white
 * space in front. `value` is null for words that were not read.
 */
export function words(text, tokens) {
  const found = [{ before: "", word: "", value: null }];
  const credit = (entry, value) => (entry.value = (entry.value ?? 0) + value);
  for (const piece of align(text, tokens)) {
    let value = piece.tokens.length ? piece.tokens.reduce((sum, token) => sum + token.contribution, 0) : null;
    for (const [run] of piece.text.matchAll(/\s+|\S+/g)) {
      const last = found.at(-1);
      if (/\s/.test(run)) {
        if (last.word) found.push({ before: run, word: "", value: null });
        else last.before += run;
        continue;
      }
      last.word += run;
      if (value !== null) credit(last, value);
      value &&= 0; // what follows in the same piece was read, too
    }
    // White space alone counts to the word that comes.
    if (value) credit(found.at(-1), value);
  }
  const last = found.at(-1);
  if (!last.word && last.value && found.length > 1) credit(found.at(-2), last.value);
  return found;
}

/** The text as a paragraph. Contributions above zero speak for `of`. */
export function coloured(text, attributions) {
  const all = words(text, attributions.tokens);
  const sizes = all.map(({ value }) => Math.abs(value ?? 0));
  const most = Math.max(...sizes, 1e-9);
  const bound = [...sizes].sort((a, b) => b - a)[NUMBERED - 1] ?? 0;
  const paragraph = el("p", { class: "words prose" });
  for (const { before, word, value } of all) {
    paragraph.append(before);
    const share = Math.abs(value ?? 0) / most;
    if (value === null || share < SLIGHT) {
      paragraph.append(value === null ? el("span", { class: "unread" }, word) : word);
      continue;
    }
    const mark = el("mark", { class: value > 0 ? "for" : "against" }, word);
    mark.style.setProperty("--share", share);
    if (Math.abs(value) >= bound) mark.append(el("sup", {}, signed(value)));
    paragraph.append(mark);
  }
  return paragraph;
}

/** All words by weight, as a list that can be read. */
export function listed(text, attributions) {
  const all = words(text, attributions.tokens).filter(({ word, value }) => word && value !== null);
  all.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const { of, baseline, log_odds: total } = attributions;
  const sum = all.reduce((so_far, { value }) => so_far + value, 0);
  const items = all.map(({ word, value }) =>
    el("li", { class: value > 0 ? "for" : "against" }, el("span", {}, word), el("b", {}, signed(value))),
  );
  return el(
    "details",
    { class: "by-word" },
    el("summary", {}, "Word by word"),
    el("p", { class: "hint" }, `Log-odds of ${of}: ${signed(total)} = ${signed(baseline)} without any word, ${signed(sum)} from the words. + speaks for ${of}, − against.`),
    el("ul", {}, ...items),
  );
}
