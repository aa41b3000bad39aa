// The API key: asked for when the service answers 401, kept in this tab's session only.

import { announce, byId } from "./dom.js";

const NAME = "penwright.key";
let asking = null;
let kept = null;

const read = () => {
  try {
    return sessionStorage.getItem(NAME) ?? kept;
  } catch {
    return kept; // storage can be forbidden
  }
};

function write(key) {
  kept = key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Then it lasts as long as the page.
  }
  byId("forget-key").hidden = !key;
}

export const hasKey = () => Boolean(read());

/** Resolves when a key is given: what cannot go on without one waits for it. */
export const keyGiven = () => new Promise((resolve) => addEventListener(NAME, resolve, { once: true }));

export function authorization() {
  const key = read();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** True once a key is given, false if the user would rather not. All who ask share one dialog. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-reason").textContent = hasKey()
      ? "The key that you gave is not accepted."
      : "Whoever runs it can give you one.";
    byId("key").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    const close = () => {
      asking = null;
      resolve(dialog.returnValue === "given");
    };
    dialog.addEventListener("close", close, { once: true });
  });
  return asking;
}

export function startKey() {
  byId("forget-key").hidden = !hasKey();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    // A header is ASCII without spaces around it; pasted keys often bring a line break.
    const key = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      byId("key-reason").textContent = "A key is made of letters, digits and signs, without spaces.";
      return;
    }
    write(key);
    byId("key-dialog").close("given");
    dispatchEvent(new Event(NAME));
  });
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close("cancelled"));
  byId("forget-key").addEventListener("click", () => {
    write(null);
    announce("The key is forgotten.");
    byId("theme").focus();
  });
}
