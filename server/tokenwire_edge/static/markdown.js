/**
 * Blocks of Markdown, parsed while the text arrives. Pure: no DOM (see `markdown_view.js`).
 *
 * Supported: headings, paragraphs, fenced code, lists, quotes, rules and tables. HTML stays text.
 *
 * The tree consists of blocks `{type, children}` and leaves `{type: "inline" | "raw", text, seams}`. The leaves
 * of a block are lines, or pieces of a line that is very long. The tree grows only at its end, so a view need
 * not look at blocks that are complete: in `children`, only the entries from `stable - 1` on may have changed
 * since `stable` was last set. The cost of a piece of text is linear in its length, and does not depend on the
 * text before it.
 */

/** Characters of a line that decide what it is, and about the largest size of a leaf. */
const MAX_LEAF = 4096;
const MAX_DEPTH = 12;

const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|\t|$)/;
const CONTAINERS = new Set(["document", "quote", "list", "item"]);

export class MarkdownParser {
  #stack;
  #line = "";
  #isLongLine = false;
  #seams = [];
  #undo = null;
  /** The block that contains the leaf with the end of the text. Null: the last line has no text. */
  #owner = null;

  constructor() {
    this.root = block("document");
    this.#stack = [this.root];
  }

  /** Add text to the end. */
  append(text) {
    this.#retract();
    let from = 0;
    for (;;) {
      const newline = text.indexOf("\n", from);
      this.#line += text.slice(from, newline < 0 ? undefined : newline);
      while (this.#line.length > MAX_LEAF) this.#commitPart();
      if (newline < 0) return;
      this.#commit();
      from = newline + 1;
    }
  }

  /** Mark the end of the text so far: a seam is drawn there. */
  markSeam() {
    this.#retract();
    this.#seams.push(this.#line.length);
  }

  /** Include the unfinished last line in the tree, until more text comes. */
  preview() {
    if (this.#undo !== null || (!this.#line && !this.#seams.length)) return;
    const blocks = [...this.#stack, ...(this.#owner === null ? [] : [this.#owner])];
    this.#undo = {
      stack: [...this.#stack],
      blocks: blocks.map(savedBlock),
      leaf: savedLeaf(this.#stack.at(-1).children.at(-1)),
      owner: this.#owner,
    };
    this.#add(this.#line.replace(/\r$/, ""));
  }

  /** End the text. */
  finish() {
    this.#retract();
    if (this.#line) this.#commit();
    else if (this.#owner !== null) this.#placeSeams("", "");
    this.#stack.length = 1;
  }

  #retract() {
    const undo = this.#undo;
    if (undo === null) return;
    this.#undo = null;
    this.#stack = undo.stack;
    this.#owner = undo.owner;
    for (const [node, length, last] of undo.blocks) {
      node.children.length = length;
      if (length) node.children[length - 1] = last;
      node.stable = Math.min(node.stable, length);
    }
    if (undo.leaf !== null) {
      const { leaf, text, seamCount } = undo.leaf;
      leaf.text = text;
      leaf.seams.length = seamCount;
    }
  }

  #commit() {
    this.#add(this.#line.replace(/\r$/, ""));
    this.#line = "";
    this.#isLongLine = false;
    this.#seams = [];
  }

  /** Commit the beginning of a line that is too long to be kept until its end. */
  #commitPart() {
    const end = cutOf(this.#line);
    const rest = this.#line.slice(end);
    const later = this.#seams.filter((seam) => seam > end).map((seam) => seam - end);
    this.#seams = this.#seams.filter((seam) => seam <= end);
    this.#add(this.#line.slice(0, end));
    this.#line = rest;
    this.#isLongLine = true;
    this.#seams = later;
  }

  #add(line) {
    if (this.#isLongLine) {
      if (line || this.#seams.length) this.#continueLeaf(line);
      return;
    }
    this.#owner = null;
    const { rest, depth } = this.#matchContainers(line);
    const top = this.#stack.at(-1);
    const isInside = depth === this.#stack.length - (CONTAINERS.has(top.type) ? 0 : 1);
    if (isInside && top.type === "code") {
      this.#addCode(top, rest, line);
      return;
    }
    const start = startOf(rest);
    if (!isInside && top.type === "paragraph" && rest.trim() && start === null) {
      this.#addText(top, rest, line);
      return;
    }
    if (!isInside) this.#stack.length = depth;
    this.#addBlocks(rest, start, line);
  }

  /** Return what is left of the line inside the open containers that it continues, and their number. */
  #matchContainers(line) {
    let rest = line;
    let depth = 1;
    for (; depth < this.#stack.length; depth += 1) {
      const node = this.#stack[depth];
      if (node.type === "quote") {
        const mark = QUOTE.exec(rest);
        if (mark === null) break;
        rest = rest.slice(mark[0].length);
      } else if (node.type === "item") {
        const indent = indentOf(rest);
        if (rest.trim() && indent < node.indent) break;
        rest = rest.slice(Math.min(indent, node.indent));
      } else if (node.type !== "list") {
        break;
      }
    }
    return { rest, depth };
  }

  #addBlocks(rest, start, line) {
    for (;;) {
      const top = this.#stack.at(-1);
      if (top.type === "list" && start?.type !== "item") {
        this.#stack.pop();
        continue;
      }
      if (!rest.trim()) {
        if (!CONTAINERS.has(top.type)) this.#stack.pop();
        return;
      }
      if (top.type === "paragraph" && isDelimiterRow(rest) && this.#becomesTable(top, rest)) return;
      if (top.type === "table" && start === null && rest.includes("|")) {
        this.#addRow(top, "td", rest, line);
        return;
      }
      if (start === null || (top.type === "paragraph" && start.isWeak)) {
        if (top.type === "paragraph") this.#addText(top, rest, line);
        else this.#addText(this.#open(block("paragraph")), rest, line);
        return;
      }
      if (!CONTAINERS.has(top.type)) this.#stack.pop();
      rest = rest.slice(start.length);
      if (start.type === "heading") {
        this.#addText(this.#open(block("heading", { level: start.level })), heading(rest), line);
        this.#stack.pop();
        return;
      }
      if (start.type === "rule") {
        this.#open(block("rule"));
        this.#stack.pop();
        return;
      }
      if (start.type === "code") {
        this.#open(block("code", { fence: start.fence, indent: start.indent, info: start.info }));
        return;
      }
      this.#openContainer(start);
      start = this.#stack.length < MAX_DEPTH * 2 ? startOf(rest) : null;
    }
  }

  #openContainer(start) {
    if (start.type === "quote") {
      this.#open(block("quote"));
      return;
    }
    const top = this.#stack.at(-1);
    if (top.type === "list" && top.mark !== start.mark) this.#stack.pop();
    if (this.#stack.at(-1).type !== "list") {
      const { mark, isOrdered, first } = start;
      this.#open(block("list", { mark, isOrdered, first }));
    }
    this.#open(block("item", { indent: start.length }));
  }

  #open(node) {
    if (!CONTAINERS.has(this.#stack.at(-1).type)) this.#stack.pop();
    this.#stack.at(-1).children.push(node);
    this.#stack.push(node);
    return node;
  }

  #addCode(code, rest, line) {
    const closing = FENCE.exec(rest);
    if (closing !== null && !closing[3].trim() && closing[2].startsWith(code.fence)) {
      this.#stack.pop();
      return;
    }
    const text = rest.slice(Math.min(indentOf(rest), code.indent));
    this.#addLeaf(code, "raw", text);
    this.#placeSeams(text, line);
  }

  #addText(node, rest, line) {
    const text = rest.trimStart();
    const last = node.children.at(-1);
    if (last === undefined || last.text.length > MAX_LEAF) {
      this.#addLeaf(node, "inline", text);
    } else {
      last.text += `\n${text}`;
      this.#owner = node;
    }
    this.#placeSeams(text, line);
  }

  /** Add more of a line that is longer than a leaf. */
  #continueLeaf(text) {
    if (this.#owner === null) {
      if (text.trim() && this.#stack.at(-1).type !== "code") this.#addBlocks(text, null, text);
      return;
    }
    this.#addLeaf(this.#owner, this.#owner.type === "code" ? "raw" : "inline", text);
    this.#placeSeams(text, text);
  }

  #addLeaf(owner, type, text) {
    owner.children.push(leaf(type, text));
    this.#owner = owner;
  }

  /** `content` is the end of the last leaf's text and of the line. */
  #placeSeams(content, line) {
    const target = this.#owner.children.at(-1);
    for (const seam of this.#seams) {
      const fromEnd = Math.min(content.length, Math.max(0, line.length - seam));
      target.seams.push(target.text.length - fromEnd);
    }
  }

  #becomesTable(paragraph, delimiters) {
    const [only, ...others] = paragraph.children;
    if (others.length || only.text.includes("\n")) return false;
    if (cellsOf(only.text).length !== cellsOf(delimiters).length) return false;
    this.#stack.pop();
    this.#stack.at(-1).children.pop();
    const table = this.#open(block("table"));
    this.#addRow(table, "th", only.text, delimiters);
    const [first] = table.children[0].children[0].children;
    first.seams.unshift(...only.seams.map(() => first.text.length));
    return true;
  }

  #addRow(table, type, text, line) {
    const row = block("row");
    for (const cell of cellsOf(text)) {
      row.children.push(block(type));
      this.#addLeaf(row.children.at(-1), "inline", cell);
    }
    table.children.push(row);
    this.#placeSeams("", line);
  }
}

function block(type, facts = {}) {
  return { type, ...facts, children: [], stable: 0 };
}

function leaf(type, text) {
  return { type, text, seams: [] };
}

function savedBlock(node) {
  return [node, node.children.length, node.children.at(-1)];
}

function savedLeaf(last) {
  if (last?.text === undefined) return null;
  return { leaf: last, text: last.text, seamCount: last.seams.length };
}

/** Return the kind of block that begins with this line, or null for a paragraph. */
function startOf(line) {
  const fence = FENCE.exec(line);
  if (fence !== null) {
    const info = fence[3].trim().split(/\s/, 1)[0];
    return { type: "code", length: line.length, fence: fence[2], indent: fence[1].length, info };
  }
  const mark = HEADING.exec(line);
  if (mark !== null) return { type: "heading", length: mark[0].length, level: mark[1].length };
  if (RULE.test(line)) return { type: "rule", length: line.length };
  const quote = QUOTE.exec(line);
  if (quote !== null) return { type: "quote", length: quote[0].length };
  const item = ITEM.exec(line);
  if (item === null) return null;
  const number = Number.parseInt(item[2], 10);
  const isOrdered = !Number.isNaN(number);
  return {
    type: "item",
    length: item[0].length,
    mark: item[2].at(-1),
    isOrdered,
    first: isOrdered ? number : 1,
    // Only such an item may interrupt a paragraph: a line may begin with a number, or with a dash.
    isWeak: (isOrdered && number !== 1) || !line.slice(item[0].length).trim(),
  };
}

/** Return where to cut a line that is longer than a leaf: after a space, or at least not in a character. */
function cutOf(line) {
  const space = line.lastIndexOf(" ", MAX_LEAF - 1);
  if (space >= MAX_LEAF - 256) return space + 1;
  const isHighSurrogate = (line.charCodeAt(MAX_LEAF - 1) & 0xfc00) === 0xd800;
  return isHighSurrogate ? MAX_LEAF - 1 : MAX_LEAF;
}

function indentOf(line) {
  let indent = 0;
  while (line[indent] === " " || line[indent] === "\t") indent += 1;
  return indent;
}

function heading(text) {
  return text.trimEnd().replace(/(^|[ \t])#{1,64}$/, "");
}

function cellsOf(row) {
  const cells = row.trim().replace(/^\|/, "").replace(/\|$/, "").split("|");
  return cells.slice(0, 64).map((cell) => cell.trim());
}

function isDelimiterRow(line) {
  if (!line.includes("-") || !line.includes("|")) return false;
  return cellsOf(line).every((cell) => /^:?-+:?$/.test(cell));
}
