// The box beside a token: how probable it was, and what else could have come.

import { END, spoken, visible } from "./align.js";
import { el, percent, plural } from "./dom.js";

const LEAVE_MILLISECONDS = 180;
const GAP = 6;

/** A token's text: signs for its white space to those who see it, its name to those who hear it. */
function word(text, tag = "span") {
  const [, before, core, after] = /^(\s*)(.*?)(\s*)$/s.exec(text);
  const signs = (spaces) => (spaces ? [el("span", { class: "sign", "aria-hidden": "true" }, visible(spaces))] : []);
  if (!core) return el(tag, { class: "word" }, ...signs(before), el("span", { class: "unseen" }, spoken(text)));
  return el(tag, { class: "word" }, ...signs(before), visible(core), ...signs(after));
}

export class Alternatives {
  #box;
  #onchoose;
  #token = null;
  #leaving = 0;

  constructor(box, onchoose) {
    this.#box = box;
    this.#onchoose = onchoose;
    box.addEventListener("pointerenter", () => clearTimeout(this.#leaving));
    box.addEventListener("pointerleave", () => this.leaveSoon());
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("focusout", (event) => this.left(event.relatedTarget));
  }

  holds(element) {
    return this.#box.contains(element);
  }

  open(span, index, piece) {
    clearTimeout(this.#leaving);
    if (span === this.#token) return;
    this.#mark(span);
    this.#box.replaceChildren(...this.#content(index, piece));
    this.#box.hidden = false;
    this.#place(span);
  }

  /** Let the keyboard into the list. */
  enter() {
    this.#box.querySelector("button")?.focus();
  }

  /** Close unless the focus has only gone from the token to the box, or back. */
  left(to) {
    if (!this.holds(to) && to?.getAttribute("role") !== "option") this.close();
  }

  leaveSoon() {
    clearTimeout(this.#leaving);
    this.#leaving = setTimeout(() => {
      const focused = document.activeElement;
      if (!this.holds(focused) && focused !== this.#token) this.close();
    }, LEAVE_MILLISECONDS);
  }

  close() {
    clearTimeout(this.#leaving);
    this.#mark(null);
    this.#box.hidden = true;
  }

  #mark(span) {
    this.#token?.classList.remove("open");
    this.#token = span;
    span?.classList.add("open");
  }

  #content(index, { text, tokens }) {
    if (!tokens.length) return [el("p", { class: "chance" }, "Chosen by you.")];
    const p = Math.exp(tokens.reduce((sum, token) => sum + token.logprob, 0));
    const [first] = tokens;
    const rank = first.top.findIndex((other) => other.token === first.token) + 1;
    const place = rank ? `#${rank}` : `below #${first.top.length}`;
    const head = el("p", { class: "chance" }, word(text || END, "b"), el("span", {}, percent(p)));
    const note = tokens.length > 1 ? plural(tokens.length, "token") + " make this" : place;
    head.append(el("small", {}, note));
    const most = Math.exp(first.top[0]?.logprob ?? 0);
    const rows = first.top.map((other) => this.#row(index, other, first.token, most));
    const missing = rank || tokens.length > 1 ? [] : [this.#row(index, first, first.token, most)];
    const list = el("ul", {}, ...[...rows, ...missing].map((row) => el("li", {}, row)));
    return [head, list, el("p", { class: "hint" }, "Choose one to go on from it.")];
  }

  #row(index, other, taken, most) {
    const p = Math.exp(other.logprob);
    const is = other.token === taken;
    const bar = el("i", { class: "bar" });
    bar.style.setProperty("--share", p / most);
    // The end has no text to go on from, and a part of a character is none.
    const able = other.text && other.text !== END && !other.text.includes("\uFFFD");
    const choose = (event) => {
      this.close();
      this.#onchoose(index, other.text, event.detail === 0);
    };
    return el(
      "button",
      { type: "button", class: is ? "taken" : null, "aria-disabled": able ? null : "true", click: able ? choose : null },
      word(other.text),
      bar,
      el("span", { class: "number" }, percent(p)),
      ...(is ? [el("span", { class: "unseen" }, " taken")] : []),
    );
  }

  /** Under the token, or above it where there is no room; never wider than the page. */
  #place(span) {
    const [line] = span.getClientRects();
    const outer = this.#box.offsetParent.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#box;
    const right = Math.min(outer.right, document.documentElement.clientWidth - 8);
    const left = Math.max(outer.left, Math.min(line.left, right - width));
    const bottom = document.querySelector("footer.status").getBoundingClientRect().top;
    const under = line.bottom + GAP + height < Math.min(innerHeight, bottom) || line.top < height + GAP + 60;
    const top = under ? line.bottom + GAP : line.top - GAP - height;
    this.#box.style.left = `${left - outer.left}px`;
    this.#box.style.top = `${top - outer.top}px`;
  }

  #key(event) {
    const buttons = [...this.#box.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined) {
      if (to < 0) this.#token?.focus();
      else buttons[Math.min(to, buttons.length - 1)].focus();
    } else if (event.key === "Escape") {
      const token = this.#token;
      token?.focus();
      this.close();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const beside = event.key === "ArrowLeft" ? this.#token?.previousElementSibling : this.#token?.nextElementSibling;
      (beside ?? this.#token)?.focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
