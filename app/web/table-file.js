// A CSV or TSV file: choose its column of text, have it labelled, get it back.

import { freeName, isBlank, readTable, writeTable } from "./csv.js";
import { announce, byId, count, el, plural } from "./dom.js";
import { decodeText } from "./decode-text.js";
import { Labelling } from "./labelling.js";

const MOST_BYTES = 64 << 20;
const PREVIEW = 5;
const NAMES = { ",": "comma", "\t": "tab", ";": "semicolon", "|": "bar" };
const LIKELY = /^(text|message|sms|body|content|comment|v2)$/i;

/** @param context `{limits, options(), model()}` */
export function startTableFile(context) {
  const drop = byId("drop");
  const open = (file) => file && read(file).then((source) => show(source, context), showError);
  byId("file").addEventListener("change", (event) => {
    open(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  // Elsewhere on the page a file that is dropped would replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
}

async function read(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${count(file.size)} bytes; this page takes ${count(MOST_BYTES)}`);
  const { text, note } = decodeText(new Uint8Array(await file.arrayBuffer()));
  if (text.includes("\0")) throw new Error(`${file.name} is no text file`);
  return { name: file.name, text, note };
}

function showError(error) {
  byId("table").hidden = false;
  byId("table").replaceChildren(el("p", { class: "problem" }, error.message));
  announce(error.message);
}

/** The file's own settings, its first rows, and the button. */
function show(source, context, delimiter = null) {
  const table = readTable(source.text, delimiter);
  const rows = table.records.filter((record) => !isBlank(record));
  if (!rows.length) return showError(new Error(`${source.name} has no rows`));
  const job = { source, context, table, column: 0, header: guessHeader(rows, context.model()) };
  job.width = rows[0].fields.length;
  job.column = guessColumn(rows, job.header);

  const preview = el("div", { class: "preview", tabindex: "0", role: "region", "aria-label": "First rows" });
  const column = el("select", { id: "column", change: () => ((job.column = Number(column.value)), draw()) });
  const header = el("input", { type: "checkbox", checked: job.header, change: () => ((job.header = header.checked), draw()) });
  const other = el("select", { id: "delimiter", change: () => show(source, context, other.value) });
  for (const [sign, name] of Object.entries(NAMES)) other.append(el("option", { value: sign, selected: sign === table.delimiter }, name));
  const draw = () => {
    const names = job.header ? rows[0].fields : rows[0].fields.map((_, i) => `Column ${i + 1}`);
    column.replaceChildren(...names.map((name, i) => el("option", { value: i, selected: i === job.column }, name || `Column ${i + 1}`)));
    const body = rows.slice(job.header ? 1 : 0).slice(0, PREVIEW);
    preview.replaceChildren(previewOf(names, body, job.column));
    job.showLabels = (results) => preview.replaceChildren(previewOf(names, body, job.column, results));
    go.textContent = `Label ${plural(dataRows(job).length, "row")}`;
  };
  const go = el("button", { type: "button", class: "primary" });
  const notes = [table.problem && `Careful: ${table.problem.message}.`, source.note && `The file is ${source.note}.`];
  const ragged = rows.find((record) => record.fields.length > job.width);
  if (ragged) notes.push(`Line ${ragged.line} has more columns than the first; its labels come after them.`);
  byId("table").replaceChildren(
    el("p", { class: "file-name" }, el("b", {}, source.name), ` ${plural(rows.length, "row")}`),
    el("div", { class: "file-settings" },
      el("label", {}, "Text is in ", column),
      el("label", {}, "Columns end with ", other),
      el("label", { class: "check" }, header, " The first row is a header")),
    ...notes.filter(Boolean).map((note) => el("p", { class: "hint" }, note)),
    preview,
    progress(job, go),
  );
  byId("table").hidden = false;
  draw();
  go.focus();
  announce(`${source.name}: ${plural(rows.length, "row")}. Choose the column of text and label it.`);
}

const dataRows = ({ table, header }) => {
  const all = table.records.map((record, place) => ({ record, place })).filter(({ record }) => !isBlank(record));
  return all.slice(header ? 1 : 0);
};

/** A first row that has a label or a long text in it is no header. */
function guessHeader([first], model) {
  const labels = model?.labels ?? [];
  return !first.fields.some((cell) => cell.length > 60 || labels.includes(cell.trim().toLowerCase()));
}

/** The column with a likely name, or with the longest texts. */
function guessColumn(rows, header) {
  const named = header ? rows[0].fields.findIndex((name) => LIKELY.test(name.trim())) : -1;
  if (named >= 0) return named;
  const lengths = rows[0].fields.map((_, i) => rows.slice(0, 50).reduce((sum, { fields }) => sum + (fields[i]?.length ?? 0), 0));
  return lengths.indexOf(Math.max(...lengths));
}

/** The first rows, and their labels once there are some. */
function previewOf(names, rows, column, results = null) {
  const added = (text) => (results ? [el("td", { class: "new" }, text)] : []);
  const cells = (tag, values) => values.map((value, i) => el(tag, { class: i === column ? "text" : null, scope: tag === "th" ? "col" : null }, value));
  return el("table", {},
    el("thead", {}, el("tr", {}, ...cells("th", names), ...(results ? [el("th", { class: "new", scope: "col" }, "label")] : []))),
    el("tbody", {}, ...rows.map(({ fields }, i) => el("tr", {}, ...cells("td", fields), ...added(results?.[i]?.label ?? "")))));
}

/** The buttons, and how far it is. */
function progress(job, go) {
  const bar = el("progress", { "aria-label": "Rows labelled", hidden: true });
  const told = el("p", { class: "outcome", role: "status" });
  const stop = el("button", { type: "button", hidden: true }, "Cancel");
  const save = el("button", { type: "button", hidden: true }, "Download");
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  let work = null;

  go.addEventListener("click", async () => {
    const controller = new AbortController();
    const settings = byId("table").querySelectorAll("select, input");
    stop.onclick = () => controller.abort();
    problem.hidden = true;
    const started = performance.now();
    let before = work?.done ?? 0;
    try {
      work ??= new Labelling(dataRows(job).map(({ record }) => record.fields[job.column] ?? ""), await job.context.limits);
      bar.max = work.results.length || 1;
      for (const field of settings) field.disabled = true;
      toggle(true);
      const onprogress = (done) => {
        bar.value = done;
        const rate = (done - before) / ((performance.now() - started) / 1000);
        const left = Math.ceil((work.results.length - done) / rate);
        told.textContent = `${count(done)} of ${count(work.results.length)} · ${Math.round(rate)} a second · ${left} s left`;
      };
      const onwait = (text) => (told.textContent = text);
      await work.run({ signal: controller.signal, options: job.context.options(), onwait, onprogress });
      told.textContent = tally(work.results);
      job.showLabels(work.results);
      announce(`Done. ${told.textContent}`);
    } catch (error) {
      told.textContent = `Stopped after ${count(work?.done ?? 0)} of ${plural(work?.results.length ?? 0, "row")}.`;
      if (error.name !== "AbortError") {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    }
    toggle(false);
    go.hidden = Boolean(work?.complete);
    if (!work?.complete) go.textContent = "Go on";
    save.hidden = !work?.done;
    save.classList.toggle("primary", Boolean(work?.complete));
    save.textContent = work?.complete ? "Download the labelled file" : "Download what is done";
    (work?.complete ? save : go).focus();
  });
  save.addEventListener("click", () => download(job, work.results));
  const toggle = (running) => {
    go.hidden = running;
    stop.hidden = bar.hidden = !running;
    if (running) {
      save.hidden = true;
      stop.focus();
    }
  };
  return el("div", { class: "labelling" }, el("div", { class: "actions" }, go, stop, save, bar), told, problem);
}

/** How many of each label. */
function tally(results) {
  const counts = new Map();
  for (const result of results) counts.set(result?.label ?? "no text", (counts.get(result?.label ?? "no text") ?? 0) + 1);
  const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([label, n]) => `${count(n)} ${label}`);
  const cut = results.filter((result) => result?.truncated).length;
  return parts.join(" · ") + (cut ? ` · ${count(cut)} read only in part` : "");
}

/** The file with its new columns: label, score, and the probability of each label. */
export function labelled(job, results) {
  const labels = Object.keys(results.find(Boolean)?.probabilities ?? {});
  const number = (x) => (x === undefined ? "" : String(Number(x.toFixed(6))));
  const added = job.table.records.map(() => null);
  const rows = dataRows(job);
  if (job.header) {
    const head = job.table.records.find((record) => !isBlank(record));
    const taken = [...head.fields];
    added[job.table.records.indexOf(head)] = ["label", "score", ...labels.map((label) => `p_${label}`)].map((name) => {
      taken.push(freeName(name, taken));
      return taken.at(-1);
    });
  }
  rows.forEach(({ place }, i) => {
    const result = results[i];
    added[place] = [result?.label ?? "", number(result?.score), ...labels.map((label) => number(result?.probabilities[label]))];
  });
  return writeTable(job.table, added, job.width);
}

function download(job, results) {
  const blob = new Blob([labelled(job, results)], { type: "text/csv;charset=utf-8" });
  const link = el("a", { href: URL.createObjectURL(blob), download: job.source.name.replace(/(\.\w+)?$/, "-labelled$1") });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
