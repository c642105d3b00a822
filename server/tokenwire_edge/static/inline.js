/**
 * Inline Markdown: emphasis, code, links, line breaks. Pure: text in, nodes out, no DOM.
 *
 * The result is a list of nodes:
 * `{type: "text" | "code", text}`, `{type: "strong" | "em" | "del", children}`,
 * `{type: "link", href, children}`, `{type: "break"}` and `{type: "seam"}`.
 *
 * HTML in the text stays text. The time is linear in the length of the text.
 */

const MAX_DEPTH = 32;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const PLAIN = /[^\\`*_~[\]!<h\n]+/y;
const DESTINATION =
  /\(\s{0,8}<?([^\s<>()]{1,2048}(?:\([^\s<>()]{0,256}\)[^\s<>()]{0,256}){0,4})>?(?:\s{1,8}"[^"\n]{0,256}")?\s{0,8}\)/y;
const ANGLE_ADDRESS = /<(https?:\/\/[^\s<>]{1,2048})>/iy;
const BARE_ADDRESS = /https?:\/\/[^\s<>"`[\]]{1,2048}/iy;

/** Return the address of a link if it may be followed: http or https, and no credentials. Otherwise null. */
export function safeAddress(text) {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return null;
  const { href, username, password } = new URL(text);
  return username || password ? null : href; // https://bank.example@other.example
}

/**
 * Parse `text`.
 *
 * `isOpen`: more text may follow, so that a mark without its counterpart formats the rest of the text.
 * Otherwise, such a mark is text. `seams`: ascending offsets at which a seam node is inserted.
 */
export function parseInline(text, { isOpen = false, seams = [] } = {}) {
  return new InlineParser(text, isOpen, seams).parse();
}

class InlineParser {
  constructor(text, isOpen, seams) {
    this.text = text;
    this.isOpen = isOpen;
    this.seams = seams;
    this.seamCount = 0;
    this.at = 0;
    this.frames = [{ type: "root", mark: "", children: [] }];
    this.nextRun = backtickRuns(text);
  }

  parse() {
    const { text } = this;
    while (this.at < text.length) {
      this.insertSeams();
      const start = this.at;
      if (!this.special(text[start])) {
        PLAIN.lastIndex = start;
        const plain = PLAIN.exec(text);
        let end = plain ? PLAIN.lastIndex : start + 1;
        const seam = this.seams[this.seamCount];
        if (seam !== undefined && seam > start && seam < end) end = seam;
        this.addText(text.slice(start, end));
        this.at = end;
      }
    }
    this.at = Infinity;
    this.insertSeams();
    while (this.frames.length > 1) this.closeUnmatched();
    return this.frames[0].children;
  }

  /** Consume what begins with the character, if it is a mark. Return whether it was. */
  special(character) {
    switch (character) {
      case "\\":
        return this.escape();
      case "\n":
        this.add({ type: "break" });
        this.at += 1;
        return true;
      case "`":
        return this.code();
      case "*":
      case "_":
      case "~":
        return this.emphasis(character);
      case "!":
        return this.text[this.at + 1] === "[" && this.openBracket("![");
      case "[":
        return this.openBracket("[");
      case "]":
        return this.closeBracket();
      case "<":
        return this.address(ANGLE_ADDRESS, 1);
      case "h":
        return !WORD.test(this.text[this.at - 1] ?? "") && this.address(BARE_ADDRESS, 0);
      default:
        return false;
    }
  }

  insertSeams() {
    while (this.seamCount < this.seams.length && this.seams[this.seamCount] <= this.at) {
      this.add({ type: "seam" });
      this.seamCount += 1;
    }
  }

  add(node) {
    this.frames.at(-1).children.push(node);
  }

  addText(text) {
    const { children } = this.frames.at(-1);
    const last = children.at(-1);
    if (last?.type === "text") last.text += text;
    else if (text) children.push({ type: "text", text });
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "\n") this.add({ type: "break" });
    else if (PUNCTUATION.test(next)) this.addText(next);
    else return false;
    this.at += 2;
    return true;
  }

  code() {
    const run = this.nextRun.get(this.at);
    if (run === undefined) return false; // the rest of a run whose first mark is escaped
    const { end, closer } = run;
    const length = end - this.at;
    if (closer === null && !this.isOpen) {
      this.addText(this.text.slice(this.at, end));
      this.at = end;
      return true;
    }
    let content = this.text.slice(end, closer ?? this.text.length).replaceAll("\n", " ");
    if (content.startsWith(" ") && content.endsWith(" ") && content.trim()) {
      content = content.slice(1, -1);
    }
    if (content) this.add({ type: "code", text: content });
    this.at = closer === null ? this.text.length : closer + length;
    return true;
  }

  emphasis(character) {
    const { text } = this;
    let end = this.at;
    while (text[end] === character) end += 1;
    const before = text[this.at - 1] ?? " ";
    const after = text[end] ?? " ";
    const canClose = !/\s/.test(before) && !(character === "_" && WORD.test(after));
    let canOpen = !/\s/.test(after) && !(character === "_" && WORD.test(before));
    if (end === text.length && this.isOpen) canOpen ||= end - this.at >= 2;
    while (this.at < end) {
      const left = end - this.at;
      const match = canClose ? this.matchingFrame(character, left) : -1;
      if (match > 0) {
        const { mark } = this.frames[match];
        while (this.frames.length > match + 1) this.closeUnmatched();
        this.closeFrame();
        this.at += mark.length;
        continue;
      }
      const mark = this.openingMark(character, left);
      if (!mark || !canOpen || this.frames.length > MAX_DEPTH) {
        this.addText(text.slice(this.at, end));
        this.at = end;
        break;
      }
      const type = character === "~" ? "del" : mark.length === 2 ? "strong" : "em";
      this.frames.push({ type, mark, children: [] });
      this.at += mark.length;
    }
    return true;
  }

  openingMark(character, length) {
    if (character === "~") return length === 2 ? "~~" : "";
    if (length > 3) return "";
    return length >= 2 ? character.repeat(2) : character;
  }

  matchingFrame(character, length) {
    for (let index = this.frames.length - 1; index > 0; index -= 1) {
      const { mark, children } = this.frames[index];
      if (mark.startsWith("[") || mark === "![") return -1;
      if (mark[0] === character && mark.length <= length && children.length) return index;
    }
    return -1;
  }

  closeFrame() {
    const { type, children, href } = this.frames.pop();
    this.add(href === undefined ? { type, children } : { type, href, children });
  }

  /** Close the innermost frame, whose counterpart has not come. */
  closeUnmatched() {
    const frame = this.frames.at(-1);
    const isAtEnd = this.at === Infinity;
    if (this.isOpen && isAtEnd) {
      if (frame.type === "bracket") this.spill();
      else if (frame.children.length) this.closeFrame();
      else this.frames.pop();
    } else {
      this.spill(frame.mark);
    }
  }

  /** Move the content of the innermost frame to the one around it. */
  spill(before = "", after = "") {
    const { children } = this.frames.pop();
    this.addText(before);
    for (const child of children) {
      if (child.type === "text") this.addText(child.text);
      else this.add(child);
    }
    this.addText(after);
  }

  openBracket(mark) {
    if (this.frames.length > MAX_DEPTH) return false;
    this.frames.push({ type: "bracket", mark, children: [], isInactive: false });
    this.at += mark.length;
    return true;
  }

  closeBracket() {
    let match = this.frames.length - 1;
    while (match > 0 && this.frames[match].type !== "bracket") match -= 1;
    if (match === 0) return false;
    while (this.frames.length > match + 1) this.closeUnmatched();
    const frame = this.frames[match];
    DESTINATION.lastIndex = this.at + 1;
    const destination = frame.isInactive ? null : DESTINATION.exec(this.text);
    const href = destination && safeAddress(destination[1]);
    if (href) {
      this.at = DESTINATION.lastIndex;
      Object.assign(frame, { type: "link", href });
      if (!frame.children.length) frame.children.push({ type: "text", text: href });
      this.closeFrame();
      for (const outer of this.frames) outer.isInactive = true;
      return true;
    }
    const isUnfinished = this.isOpen && /^\((?:\s{0,8}h[^\s<>()]{0,2048})?$/.test(this.rest());
    if (isUnfinished && !frame.isInactive) {
      this.spill();
      this.at = this.text.length;
    } else {
      this.spill(frame.mark, "]");
      this.at += 1;
    }
    return true;
  }

  /** Text after the current character, cut where it is too long for an address. */
  rest() {
    return this.text.slice(this.at + 1, this.at + 2100);
  }

  address(pattern, group) {
    if (this.frames.some((frame) => frame.type === "bracket")) return false;
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match === null) return false;
    let shown = match[group];
    let length = match[0].length;
    if (group === 0) {
      shown = shown.replace(/[.,;:!?'*_~)]{1,16}$/, (end) =>
        end.startsWith(")") && shown.includes("(") ? ")" : "",
      );
      length = shown.length;
    }
    const href = safeAddress(shown);
    if (href === null) return false;
    this.add({ type: "link", href, children: [{ type: "text", text: shown }] });
    this.at += length;
    return true;
  }
}

/** Map the start of each run of backticks to its end and to the start of the next run of its length. */
function backtickRuns(text) {
  const runs = [...text.matchAll(/`+/g)];
  const result = new Map();
  const following = new Map();
  for (const { index, 0: marks } of runs.reverse()) {
    result.set(index, { end: index + marks.length, closer: following.get(marks.length) ?? null });
    following.set(marks.length, index);
  }
  return result;
}
