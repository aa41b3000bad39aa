// Calls of the service: the key is added and asked for, a full queue and loading models are waited
// for, and whatever goes wrong is a `Problem`.

import { readEvents } from "./events.js";
import { askForKey, authorization } from "./key.js";

const TRIES_WHEN_FULL = 20;

/** Where a route of the service is: beside the folder of this file, whatever prefix a proxy gives both. */
export const address = (path) => new URL(`../${path}`, import.meta.url).href;

/** What went wrong, in the terms of RFC 9457; `status` 0 is no answer at all. */
export class Problem extends Error {
  constructor({ status = 0, type = "", title = "", detail = "", errors = [], request_id = null }) {
    super(detail || title);
    Object.assign(this, { status, title, errors: errors ?? [], requestId: request_id });
    this.kind = type.split(":").pop();
  }
}

const lost = (detail) => new Problem({ type: "lost", detail });
const unreachable = () => lost("The service does not answer. Is it running, and the network there?");

export const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const body = JSON.parse(text);
    // Also OpenAI's envelope, and whatever a proxy in between says.
    return new Problem({ detail: body.error?.message, ...body, status: response.status });
  } catch {
    const title = response.statusText || `status ${response.status}`;
    return new Problem({ status: response.status, title, detail: `The answer was ${response.status} ${title}.` });
  }
}

/**
 * Ask until there is an answer that is no "not yet".
 *
 * `onwait(text)` hears why it takes longer; `patient` waits for a full queue as long as it takes;
 * without `ask`, nobody is asked for a key.
 */
async function request(path, { body, signal, onwait = () => {}, patient = false, ask = true } = {}) {
  for (let tries = 1; ; tries++) {
    const headers = { ...authorization() };
    const options = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      options.method = "POST";
      options.body = JSON.stringify(body);
      headers["Content-Type"] = "application/json";
    }
    let response;
    try {
      response = await fetch(address(path), options);
    } catch (error) {
      throw error.name === "AbortError" ? error : unreachable();
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    if (problem.status === 401 && ask && (await askForKey(problem.message))) continue;
    const full = problem.status === 429 && (patient || tries < TRIES_WHEN_FULL);
    if (!full && problem.kind !== "loading") throw problem;
    onwait(full ? "The service is busy; waiting for a place…" : "The models are being loaded…");
    await pause(seconds * 1000, signal);
  }
}

export async function get(path, options) {
  const response = await request(path, options);
  const json = response.headers.get("Content-Type")?.includes("json");
  return json ? response.json() : response.text();
}

export async function post(path, body, options) {
  const response = await request(path, { body, ...options });
  try {
    return await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : lost("The connection was lost before the answer was complete.");
  }
}

/** The events of a generation as they arrive, parsed. Returns after the last one. */
export async function* stream(path, body, options) {
  const response = await request(path, { body, ...options });
  try {
    for await (const { name, data } of readEvents(response.body)) {
      if (options.signal?.aborted) break; // what is in the buffers is not wanted either
      if (data === "[DONE]") return;
      if (name === "error") throw new Problem(JSON.parse(data));
      if (data) yield JSON.parse(data);
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
  }
  if (options.signal?.aborted) throw options.signal.reason;
  throw lost("The connection was lost in the middle of the answer. What had arrived is kept.");
}
