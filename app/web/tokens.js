// The generated text as one span for each token: tinted by probability, walked with arrow keys.

import { Alternatives } from "./alternatives.js";
import { END, spoken } from "./align.js";
import { el, percent } from "./dom.js";

/** From which probability on a token is how surprising: classes p0 (expected) to p4. */
const STEPS = [0.5, 0.2, 0.05, 0.01];

/** Of all the tokens of a piece together. */
export const probability = (piece) =>
  Math.exp(piece.tokens.reduce((sum, token) => sum + token.logprob, 0));

const level = (p) => {
  const step = STEPS.findIndex((bound) => p >= bound);
  return step < 0 ? STEPS.length : step;
};

export class Tokens {
  #list;
  #popover;
  #pieces = [];

  /**
   * @param list the element that holds the spans
   * @param box the element of the alternatives
   * @param onchoose `(index, text, byKey)`: put this text in place of the token, and go on from
   *   there; `byKey` if the keyboard chose, whose focus goes with the token it was in
   */
  constructor(list, box, onchoose) {
    this.#list = list;
    this.#popover = new Alternatives(box, onchoose);
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", (event) => this.#open(event.target));
    list.addEventListener("focusout", (event) => this.#popover.left(event.relatedTarget));
    list.addEventListener("pointerover", (event) => this.#open(event.target));
    list.addEventListener("pointerleave", () => this.#popover.leaveSoon());
  }

  /** Show these pieces in place of all. */
  reset(pieces) {
    this.#popover.close();
    this.#pieces = [];
    this.#list.replaceChildren();
    this.#list.hidden = true;
    for (const piece of pieces) this.append(piece);
  }

  append(piece) {
    const index = this.#pieces.push(piece) - 1;
    const p = probability(piece);
    const end = piece.tokens[0]?.text === END && !piece.text;
    const kind = [`token p${level(p)}`, end && "end", /^\s*\n\s*$/.test(piece.text) && "break", piece.chosen && "chosen"];
    const span = el("span", { class: kind.filter(Boolean).join(" "), role: "option" });
    span.textContent = end ? "∎" : piece.text;
    span.tabIndex = index === 0 ? 0 : -1;
    span.setAttribute("aria-selected", "false");
    const name = spoken(piece.text);
    span.setAttribute("aria-label", piece.tokens.length ? `${name}, ${percent(p)}` : name);
    this.#list.append(span);
    this.#list.hidden = false;
  }

  focus(index) {
    this.#list.children[index]?.focus();
  }

  #open(span) {
    const index = [...this.#list.children].indexOf(span);
    if (index < 0) return;
    const focused = document.activeElement;
    // The pointer does not take away what the keyboard is in.
    if (this.#popover.holds(focused)) return;
    if (span === focused) this.#rove(span);
    this.#popover.open(span, index, this.#pieces[index]);
  }

  #rove(span) {
    for (const other of this.#list.querySelectorAll('[tabindex="0"]')) {
      other.tabIndex = -1;
      other.setAttribute("aria-selected", "false");
    }
    span.tabIndex = 0;
    span.setAttribute("aria-selected", "true");
  }

  #key(event) {
    const spans = [...this.#list.children];
    const at = spans.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to !== undefined) {
      spans[Math.max(0, Math.min(to, spans.length - 1))].focus();
    } else if (event.key === "Enter" || event.key === " " || event.key === "ArrowDown") {
      this.#popover.enter();
    } else if (event.key === "Escape") {
      this.#popover.close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
