// Many texts, labelled in batches that the service takes.

import { post } from "./api.js";

/** As many as run at once by default: with more, others would wait longer. */
const MOST_AT_ONCE = 32;
/** No context holds more than this; cutting here keeps a huge cell from being a huge body. */
const MOST_CHARACTERS = 50_000;

const bytes = (text) => new TextEncoder().encode(JSON.stringify(text)).length;

export class Labelling {
  #texts;
  #limits;
  #next = 0;
  /** One for each text: a result of /classify, or null where there is no text, or not yet one. */
  results;

  /** @param limits `{max_batch, max_body_bytes}` of the service */
  constructor(texts, limits) {
    this.#texts = texts.map((text) => text.slice(0, MOST_CHARACTERS).toWellFormed?.() ?? text);
    this.#limits = limits;
    this.results = new Array(texts.length).fill(null);
  }

  get done() {
    return this.#next;
  }

  get complete() {
    return this.#next >= this.#texts.length;
  }

  /** Label what is not labelled yet; may be called again after a stop or a problem. */
  async run({ signal, options, onwait, onprogress }) {
    while (!this.complete) {
      const { places, end } = this.#batch();
      if (places.length) {
        const body = { text: places.map((place) => this.#texts[place]), truncate: true, ...options };
        const { results } = await post("classify", body, { signal, onwait, patient: true });
        results.forEach((result, i) => (this.results[places[i]] = result));
      }
      this.#next = end;
      onprogress(end);
    }
  }

  /** The next texts that go into one request; empty ones have no label. */
  #batch() {
    const most = Math.min(this.#limits.max_batch, MOST_AT_ONCE);
    const places = [];
    let room = this.#limits.max_body_bytes - 512;
    let end = this.#next;
    for (; end < this.#texts.length && places.length < most; end++) {
      const text = this.#texts[end];
      if (text.trim() === "") continue;
      room -= bytes(text) + 1;
      if (room < 0 && places.length) break;
      places.push(end);
    }
    return { places, end };
  }
}
