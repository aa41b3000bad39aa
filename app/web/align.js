// Which part of a text each token is.
//
// The text comes in whole characters and the tokens beside it, not always in step: a character may
// take several tokens (each is U+FFFD for itself), the end token has no text, and a piece that may
// be the beginning of a stop string comes later than its tokens.

const BROKEN = "\uFFFD";
export const END = "<|endoftext|>";

/** Cuts a growing text at the borders of its tokens. Pieces are `{text, tokens}`. */
export class Aligner {
  #text = "";
  #tokens = [];

  /** The pieces that are complete with this text and these tokens. */
  push(text, tokens) {
    this.#text += text;
    this.#tokens.push(...tokens);
    const pieces = [];
    for (let piece = this.#next(); piece; piece = this.#next()) pieces.push(piece);
    return pieces;
  }

  /** What is left at the end: text that has no token of its own, and tokens without text. */
  flush() {
    const pieces = this.#text ? [{ text: this.#text, tokens: this.#tokens.slice(0, 1) }] : [];
    const ends = this.#text ? [] : this.#tokens.filter((token) => token.text === END);
    this.#text = "";
    this.#tokens = [];
    return [...pieces, ...ends.map((token) => ({ text: "", tokens: [token] }))];
  }

  #next() {
    const [token] = this.#tokens;
    if (!token || !this.#text) return null;
    if (this.#text.startsWith(token.text) && token.text) return this.#take(1, token.text.length);
    if (token.text === END || token.text === "") return this.#take(1, 0);
    if (token.text.startsWith(this.#text)) return null;
    // The tokens of one or several characters, as far as the next that begins with a whole one.
    for (let n = 1; n < this.#tokens.length; n++) {
      const [whole] = this.#tokens[n].text.split(BROKEN);
      const at = whole ? this.#text.indexOf(whole, 1) : -1;
      if (at > 0 && at <= 4 * n) return this.#take(n, at);
    }
    return this.#take(this.#tokens.length, this.#text.length);
  }

  #take(tokens, characters) {
    const piece = { text: this.#text.slice(0, characters), tokens: this.#tokens.slice(0, tokens) };
    this.#text = this.#text.slice(characters);
    this.#tokens = this.#tokens.slice(tokens);
    return piece;
  }
}

/** Cut a text that is there as a whole. */
export function align(text, tokens) {
  const aligner = new Aligner();
  return [...aligner.push(text, tokens), ...aligner.flush()];
}

/** A token's text with what could not be seen in it written out. */
export function visible(text) {
  if (text === END) return "end of text";
  return text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replaceAll(BROKEN, "▯")
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)) || "nothing";
}

/** The same for those who hear it. */
export function spoken(text) {
  if (text === END || text === "") return "end of text";
  return text.trim().replaceAll(BROKEN, "part of a character ") || (text.includes("\n") ? "line break" : "space");
}
