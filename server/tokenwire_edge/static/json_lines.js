/** Lay out a JSON value as lines for people. Pure. */

/** Containers inside these are not laid out: a text that only claims to be an answer may be nested deeper. */
const MAX_DEPTH = 64;
const MAX_CHARACTERS = 100_000;
const MAX_LINES = 2000;

/**
 * Return the lines of a value, and whether only its beginning has room: at most 100,000 characters
 * in 2,000 lines.
 *
 * @returns {{lines: Line[], isCut: boolean}}
 *
 * @typedef {object} Line
 * @property {number} depth
 * @property {string} text
 * @property {{kind: "name" | "string" | "literal" | "mark", text: string}[]} tokens What `text` consists of,
 *   after two spaces for each level of `depth`.
 */
export function jsonLines(value, { maxCharacters = MAX_CHARACTERS, maxLines = MAX_LINES } = {}) {
  const layout = new Layout(maxCharacters, maxLines);
  if (value !== undefined) layout.add(value, 0, [], "");
  return { lines: layout.lines, isCut: layout.isCut };
}

/**
 * Return which lines have changed: `lines` from `first` to before `end` replace `shown` from `first` to before
 * `shownEnd`. A line that follows the change is the same line, even if its number is another one.
 */
export function changeOf(shown, lines) {
  let first = 0;
  while (first < lines.length && lines[first].text === shown[first]?.text) first += 1;
  let [end, shownEnd] = [lines.length, shown.length];
  while (end > first && shownEnd > first && lines[end - 1].text === shown[shownEnd - 1].text) {
    end -= 1;
    shownEnd -= 1;
  }
  return { first, end, shownEnd };
}

const mark = (text) => ({ kind: "mark", text });

class Layout {
  lines = [];
  isCut = false;
  #room;
  #maxLines;

  constructor(maxCharacters, maxLines) {
    this.#room = maxCharacters;
    this.#maxLines = maxLines;
  }

  /** Add a value. `head` is its name, and `comma` what follows it. */
  add(value, depth, head, comma) {
    if (typeof value !== "object" || value === null) return this.#push(depth, [...head, this.#scalar(value), mark(comma)]);
    const [open, close] = Array.isArray(value) ? "[]" : "{}";
    const keys = Array.isArray(value) ? null : Object.keys(value);
    const length = keys?.length ?? value.length;
    if (!length) return this.#push(depth, [...head, mark(open + close + comma)]);
    if (depth === MAX_DEPTH) return this.#push(depth, [...head, mark(`${open}…${close}${comma}`)]);
    this.#push(depth, [...head, mark(open)]);
    for (let place = 0; place < length && !this.isCut; place += 1) {
      const name = keys === null ? [] : [{ kind: "name", text: this.#quoted(keys[place]) }, mark(": ")];
      this.add(value[keys?.[place] ?? place], depth + 1, name, place < length - 1 ? "," : "");
    }
    if (!this.isCut) this.#push(depth, [mark(close + comma)]);
  }

  #scalar(value) {
    if (typeof value === "string") return { kind: "string", text: this.#quoted(value) };
    return { kind: "literal", text: String(value) };
  }

  #quoted(text) {
    const room = Math.max(0, this.#room);
    const quoted = JSON.stringify(text.slice(0, room)); // escapes make it longer
    if (text.length <= room && quoted.length <= room + 2) return quoted;
    this.isCut = true;
    return `${quoted.slice(0, room)}…`;
  }

  #push(depth, tokens) {
    if (this.#room < 0 || this.lines.length >= this.#maxLines) {
      this.isCut = true;
      return;
    }
    const text = "  ".repeat(depth) + tokens.map((token) => token.text).join("");
    this.#room -= text.length;
    this.lines.push({ depth, text, tokens });
  }
}
