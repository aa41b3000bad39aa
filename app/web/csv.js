// Tables as RFC 4180 has them (and with other delimiters): read, and given back with more columns.
//
// Each record is kept as it was written, so that what is not ours comes back to the byte: quotes
// that were not needed, line breaks in cells, CRLF, LF or CR, a missing last one.

/** The more telling first: a comma is also part of texts and numbers. */
const DELIMITERS = ["\t", "|", ";", ","];
const SAMPLE_CHARACTERS = 1 << 16;
const SAMPLE_RECORDS = 30;

/**
 * Cut text into records: `{fields, raw, end, line}`, `end` being the line break after `raw`.
 *
 * A quote is one only at the beginning of a cell. `problem` is `{line, message}` if the quotes do
 * not go up; `quotes: false` takes all of them as ordinary characters.
 */
export function parse(text, { delimiter = ",", quotes = true } = {}) {
  const records = [];
  let problem = null;
  let at = 0;
  let line = 1;
  while (at < text.length) {
    const start = at;
    const first = line;
    const fields = [];
    let end = "";
    for (;;) {
      let cell = "";
      if (quotes && text[at] === '"') {
        const opened = line;
        at += 1;
        for (;;) {
          const close = text.indexOf('"', at);
          const stop = close < 0 ? text.length : close;
          const part = text.slice(at, stop);
          cell += part;
          line += breaks(part);
          at = stop + 1;
          if (close < 0) {
            problem ??= { line: opened, message: `the quote that opens in line ${opened} is never closed` };
            at = text.length;
            break;
          }
          if (text[at] !== '"') break;
          cell += '"';
          at += 1;
        }
        const after = cellEnd(text, at, delimiter);
        if (after > at) {
          problem ??= { line, message: `line ${line} goes on after a closing quote` };
          cell += text.slice(at, after);
          at = after;
        }
      } else {
        const after = cellEnd(text, at, delimiter);
        cell = text.slice(at, after);
        at = after;
      }
      fields.push(cell);
      if (text[at] === delimiter) {
        at += 1;
        continue;
      }
      if (at < text.length) end = text.startsWith("\r\n", at) ? "\r\n" : text[at];
      break;
    }
    records.push({ fields, raw: text.slice(start, at), end, line: first });
    at += end.length;
    if (end) line += 1;
  }
  return { records, problem };
}

function cellEnd(text, at, delimiter) {
  while (at < text.length && text[at] !== delimiter && text[at] !== "\n" && text[at] !== "\r") at += 1;
  return at;
}

const breaks = (text) => text.match(/\r\n|\n|\r/g)?.length ?? 0;

/** The delimiter with which most of the first records have equally many cells. */
export function guessDelimiter(text) {
  const sample = text.slice(0, SAMPLE_CHARACTERS);
  let best = { delimiter: ",", score: 0 };
  for (const delimiter of DELIMITERS) {
    const records = parse(sample, { delimiter }).records.slice(0, SAMPLE_RECORDS);
    const widths = records.filter((record) => record.raw !== "").map((record) => record.fields.length);
    const alike = widths.filter((width) => width > 1 && width === widths[0]).length / (widths.length || 1);
    if (alike > best.score) best = { delimiter, score: alike };
  }
  return best.delimiter;
}

/** A whole file: `{bom, delimiter, quotes, records, problem}`. */
export function readTable(text, delimiter = null) {
  const bom = text.startsWith("\uFEFF") ? "\uFEFF" : "";
  const body = text.slice(bom.length);
  delimiter ??= guessDelimiter(body);
  const table = { bom, delimiter, quotes: true, ...parse(body, { delimiter }) };
  // Tab-separated text often knows no quoting: a quote in it is then part of the text.
  if (!table.problem || delimiter !== "\t") return table;
  return { ...table, quotes: false, ...parse(body, { delimiter, quotes: false }) };
}

export const isBlank = (record) => record.raw === "";

/** A cell as it has to be written. */
function format(cell, { delimiter, quotes }) {
  if (!quotes) return cell.replaceAll(delimiter, " ").replace(/[\r\n]+/g, " ");
  const needed = cell.includes(delimiter) || /["\r\n]/.test(cell) || cell !== cell.trim();
  return needed ? `"${cell.replaceAll('"', '""')}"` : cell;
}

/** A number with its sign is no formula: labels can be `-1` and `+1`. */
const NUMBER = /^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i;

/** A spreadsheet would compute a cell that begins so. */
const harmless = (cell) => (/^[=+\-@\t\r]/.test(cell) && !NUMBER.test(cell) ? `'${cell}` : cell);

/**
 * The text of the table with more columns. `added[i]` are the new cells of record i; null leaves
 * the record as it is. Records that are too short are filled up to `width` first.
 */
export function writeTable(table, added, width) {
  const parts = [table.bom];
  table.records.forEach((record, index) => {
    const cells = added[index];
    parts.push(record.raw);
    if (cells && !isBlank(record)) {
      parts.push(table.delimiter.repeat(Math.max(0, width - record.fields.length)));
      for (const cell of cells) parts.push(table.delimiter, format(harmless(cell), table));
    }
    parts.push(record.end);
  });
  return parts.join("");
}

/** A name for a new column that no other has. */
export function freeName(name, taken) {
  if (!taken.includes(name)) return name;
  for (let number = 2; ; number++) if (!taken.includes(`${name}_${number}`)) return `${name}_${number}`;
}
