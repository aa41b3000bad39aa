// The choices of one request, of which one is on the page and all are in cards below it.

import { el } from "./dom.js";

const textOf = (pieces) => pieces.map((piece) => piece.text).join("");

export class Choices {
  #box;
  #onshow;
  #all = [[]];
  #cards = [];
  shown = 0;

  /** @param onshow hears the pieces of the choice that is to be on the page */
  constructor(box, onshow) {
    this.#box = box;
    this.#onshow = onshow;
  }

  get current() {
    return this.#all[this.shown];
  }

  reset(all) {
    this.#all = all;
    this.shown = 0;
    this.#cards = [];
    for (const old of this.#box.querySelectorAll(".card")) old.remove();
    this.#box.hidden = all.length < 2;
    if (all.length > 1) all.forEach((_, index) => this.#card(index));
    this.#onshow(this.current);
  }

  append(index, piece) {
    this.#all[index].push(piece);
    if (this.#cards[index]) this.#cards[index].textContent = textOf(this.#all[index]);
  }

  #card(index) {
    const text = el("span", { class: "prose" });
    text.textContent = textOf(this.#all[index]);
    const show = () => {
      this.shown = index;
      this.#onshow(this.current);
    };
    const input = el("input", { type: "radio", name: "choice", checked: index === 0, change: show });
    const number = el("span", { class: "number" }, String(index + 1));
    this.#box.append(el("label", { class: "card" }, input, number, text));
    this.#cards.push(text);
  }
}
