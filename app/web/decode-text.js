// The text of a file, whatever spreadsheets write.

/** `{text, note}`: the text with its byte-order mark, if any; the note says what was not UTF-8. */
export function decodeText(bytes) {
  const [a, b] = bytes;
  const options = { ignoreBOM: true, fatal: true };
  if (a === 0xff && b === 0xfe) return { text: new TextDecoder("utf-16le", options).decode(bytes), note: "UTF-16, given back as UTF-8" };
  if (a === 0xfe && b === 0xff) return { text: new TextDecoder("utf-16be", options).decode(bytes), note: "UTF-16, given back as UTF-8" };
  try {
    return { text: new TextDecoder("utf-8", options).decode(bytes), note: "" };
  } catch {
    const text = new TextDecoder("windows-1252").decode(bytes);
    // The mark tells spreadsheets that it is UTF-8 now.
    return { text: `\uFEFF${text}`, note: "not UTF-8, so taken as Windows-1252; given back as UTF-8" };
  }
}
