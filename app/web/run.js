// One run of a panel: from the button to the end, a stop or a problem. All three panels have it.

import { Problem } from "./api.js";
import { announce, byId } from "./dom.js";
import { clearProblem, showProblem } from "./problems.js";

/**
 * Ties a panel's form, buttons and keys together.
 *
 * @param name of the panel; its buttons are `#name-go` and `#name-stop`
 * @param work `async (signal, say, argument)`; `say(text)` shows how it goes
 */
export class Run {
  #name;
  #work;
  #controller = null;
  #ended = Promise.resolve();

  constructor(name, work) {
    this.#name = name;
    this.#work = work;
    byId(`${name}-form`).addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    byId(`${name}-stop`).addEventListener("click", () => this.stop());
    byId(name).addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.start();
      }
    });
  }

  get running() {
    return this.#controller !== null;
  }

  stop() {
    this.#controller?.abort();
  }

  say = (text) => {
    byId(`${this.#name}-outcome`).textContent = text;
  };

  /** Nothing happens if it runs already. */
  start(argument) {
    if (!this.running) this.#ended = this.#run(argument);
  }

  /** Stop what runs, and start anew. */
  async restart(argument) {
    this.stop();
    await this.#ended;
    this.start(argument);
  }

  async #run(argument) {
    const panel = byId(this.#name);
    const controller = (this.#controller = new AbortController());
    clearProblem(panel);
    this.#show(true);
    this.say("");
    try {
      await this.#work(controller.signal, this.say, argument);
    } catch (error) {
      if (error.name === "AbortError") {
        this.say("Stopped.");
        announce("Stopped.");
      } else {
        this.say("");
        showProblem(panel, error instanceof Problem ? error : new Problem({ detail: String(error.message) }));
        if (!(error instanceof Problem)) console.error(error);
      }
    } finally {
      this.#controller = null;
      this.#show(false);
    }
  }

  #show(running) {
    const go = byId(`${this.#name}-go`);
    const stop = byId(`${this.#name}-stop`);
    // Whoever is on the button stays on the one that takes its place.
    const focused = [go, stop].includes(document.activeElement);
    go.hidden = running;
    stop.hidden = !running;
    byId(this.#name).classList.toggle("running", running);
    if (focused) (running ? stop : go).focus();
  }
}
