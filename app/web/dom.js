// Elements without HTML: whatever comes from a model, a file or the service is text.

export const byId = (id) => document.getElementById(id);

/**
 * A new element. Properties that are functions are listeners; `class`, `aria-…`, `data-…` and the
 * like are attributes. Children that are no elements become text.
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Tell those who listen to the page and do not see it. */
export function announce(text) {
  byId("announcer").textContent = text;
}

const percents = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const small = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 1 });
export function percent(share) {
  if (share > 0.9995 && share < 1) return "> 99.9%"; // certain is something else
  return share > 0 && share < 0.0005 ? small.format(share) : percents.format(share);
}
export const count = new Intl.NumberFormat("en").format;
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
/** With its sign always: contributions are for or against. */
export const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;

/** Copy text, and say so on the button for a moment. */
export async function copy(button, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard's API is there for secure pages only, and plain HTTP on another host is none.
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.dataset.label ??= button.textContent;
  button.textContent = done ? "Copied" : "Cannot copy here";
  announce(button.textContent);
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => (button.textContent = button.dataset.label), 1500);
}
