// The same request for the command line.

import { address } from "./api.js";
import { byId, copy } from "./dom.js";
import { hasKey } from "./key.js";

/** In a shell everything between single quotes is itself; only the quote has to leave them. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function command(path, body) {
  const lines = [`curl ${body.stream ? "-N " : ""}${address(path)}`];
  // The key stays out of it: commands end up in histories and chats.
  if (hasKey()) lines.push('-H "Authorization: Bearer $PENWRIGHT_API_KEY"');
  lines.push(`--json ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

/** Keep the panel's command as its form is. `describe()` gives `[path, body]`. */
export function showCommand(panelId, describe) {
  const box = byId(panelId).querySelector(".curl");
  const text = box.querySelector("pre");
  const refresh = () => box.open && (text.textContent = command(...describe()));
  box.addEventListener("toggle", refresh);
  byId(panelId).addEventListener("input", refresh);
  box.querySelector("button").addEventListener("click", (event) => copy(event.currentTarget, text.textContent));
  return refresh;
}
