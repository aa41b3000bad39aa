// The live figures at the foot of the page, from /metrics, while the page is looked at.

import { get } from "./api.js";
import { byId, count, percent } from "./dom.js";
import { keyGiven } from "./key.js";

const PERIOD = 1000;
const REMEMBERED = 60;

/** Sums of the samples of each metric in Prometheus' text, keyed `name` and `name{label="value"}`. */
export function parseMetrics(text) {
  const values = new Map();
  const add = (key, value) => values.set(key, (values.get(key) ?? 0) + value);
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!match) continue;
    const [, name, labels, number] = match;
    const value = Number(number.replace("Inf", "Infinity"));
    add(name, value);
    for (const [pair] of (labels ?? "").matchAll(/\w+="(?:[^"\\]|\\.)*"/g)) add(`${name}{${pair}}`, value);
  }
  return values;
}

export function startLiveFigures() {
  const speeds = [];
  let last = null;
  let timer = 0;

  async function tick() {
    if (document.hidden) return;
    try {
      show(parseMetrics(await get("metrics", { ask: false })));
    } catch (error) {
      last = null;
      state(error.status === 401 ? "needs a key" : error.status ? `answers ${error.status}` : "not reached", "off");
      if (error.status === 401) await keyGiven();
    }
    clearTimeout(timer);
    timer = setTimeout(tick, PERIOD);
  }

  function show(values) {
    const now = performance.now();
    const made = values.get('penwright_tokens_total{kind="completion"}') ?? 0;
    // A counter that went back is a service that was started anew.
    const speed = last && made >= last.made ? ((made - last.made) * 1000) / (now - last.now) : 0;
    last = { made, now };
    speeds.push(speed);
    if (speeds.length > REMEMBERED) speeds.shift();
    const running = values.get("penwright_requests_running") ?? 0;
    byId("f-running").textContent = count(running);
    byId("f-waiting").textContent = count(values.get("penwright_requests_waiting") ?? 0);
    byId("f-speed").textContent = count(Math.round(speed));
    const cache = (values.get("penwright_cache_bytes") ?? 0) / 1e6;
    const used = values.get("penwright_cache_usage_ratio") ?? 0;
    byId("f-cache").textContent = `${percent(used)} of ${count(Math.round(cache))} MB`;
    draw(speeds);
    state(running ? "working" : "ready", running ? "busy" : "on");
  }

  document.addEventListener("visibilitychange", () => document.hidden || tick());
  tick();
}

function state(text, kind) {
  const place = byId("f-state");
  if (place.textContent !== text) place.textContent = text;
  byId("status").dataset.state = kind;
}

/** The last minute of speeds, the highest at the top. */
function draw(speeds) {
  const most = Math.max(...speeds, 1);
  const left = REMEMBERED - speeds.length;
  const points = speeds.map((speed, i) => `${left + i},${(15 - (14 * speed) / most).toFixed(1)}`);
  byId("spark").firstElementChild.setAttribute("points", points.join(" "));
}
