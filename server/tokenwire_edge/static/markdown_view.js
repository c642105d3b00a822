/**
 * Draw Markdown as DOM nodes while it arrives. Text of a model reaches the page only as text nodes, and as
 * addresses of links that `safeAddress` accepts.
 */

import { parseInline } from "./inline.js";
import { MarkdownParser } from "./markdown.js";

const TAGS = { paragraph: "p", rule: "hr", quote: "blockquote", item: "li", row: "tr" };
const INLINE_TAGS = { strong: "strong", em: "em", del: "del" };

export class MarkdownView {
  #parser = new MarkdownParser();
  #isFinished = false;
  #tail = null;

  constructor() {
    this.element = element("div", "markdown");
    this.#parser.root.host = this.element;
  }

  append(text) {
    this.#parser.append(text);
  }

  markSeam() {
    this.#parser.markSeam();
  }

  finish() {
    this.#parser.finish();
    this.#isFinished = true;
  }

  /** Bring the DOM up to date. Call it once a frame: the cost does not depend on the length of the text. */
  draw() {
    if (!this.#isFinished) this.#parser.preview();
    const { root } = this.#parser;
    const tail = this.#isFinished ? null : lastLeaf(root);
    synchronize(root, tail);
    this.#markTail(tail?.host ?? null);
  }

  /** The cursor is drawn after the element with this class. */
  #markTail(host) {
    if (host === this.#tail) return;
    this.#tail?.classList.remove("tail");
    host?.classList.add("tail");
    this.#tail = host;
  }
}

function lastLeaf(node) {
  let last = node;
  while (last?.children) last = last.children.at(-1);
  return last ?? null;
}

function synchronize(node, tail) {
  const { children, host } = node;
  for (let i = Math.max(0, Math.min(node.stable, children.length) - 1); i < children.length; i += 1) {
    const child = children[i];
    child.root ??= create(child);
    const present = host.childNodes[i];
    if (present === undefined) host.append(child.root);
    else if (present !== child.root) present.replaceWith(child.root);
    if (child.children) synchronize(child, tail);
    else fill(child, child === tail);
  }
  while (host.childNodes.length > children.length) host.lastChild.remove();
  node.stable = children.length;
}

/** Create the element of a block or leaf. `host` is where its content goes. */
function create(node) {
  if (node.type === "code") {
    const pre = element("pre");
    pre.tabIndex = 0;
    node.host = pre.appendChild(element("code"));
    if (node.info) pre.dataset.language = node.info.slice(0, 40);
    return pre;
  }
  if (node.type === "table") {
    const frame = element("div", "table");
    frame.tabIndex = 0;
    node.host = frame.appendChild(element("table")).appendChild(element("tbody"));
    return frame;
  }
  if (node.type === "list") {
    node.host = element(node.isOrdered ? "ol" : "ul");
    if (node.first !== 1) node.host.start = node.first;
  } else if (node.type === "heading") {
    node.host = element(`h${Math.min(6, node.level + 3)}`);
  } else {
    node.host = element(TAGS[node.type] ?? (node.children ? node.type : "span"));
  }
  return node.host;
}

function fill(leaf, isTail) {
  if (leaf.shown === leaf.text && leaf.isShownOpen === isTail && leaf.shownSeams === leaf.seams.length) {
    return;
  }
  leaf.shown = leaf.text;
  leaf.isShownOpen = isTail;
  leaf.shownSeams = leaf.seams.length;
  const { text, seams } = leaf;
  leaf.host.replaceChildren(
    ...(leaf.type === "raw" ? rawNodes(text, seams) : inlineNodes(parseInline(text, { isOpen: isTail, seams }))),
  );
}

function rawNodes(text, seams) {
  const nodes = [];
  let from = 0;
  for (const seam of seams) {
    nodes.push(document.createTextNode(text.slice(from, seam)), seamElement());
    from = seam;
  }
  return [...nodes, document.createTextNode(text.slice(from))];
}

function inlineNodes(tree) {
  return tree.map((node) => {
    if (node.type === "text") return document.createTextNode(node.text);
    if (node.type === "break") return element("br");
    if (node.type === "seam") return seamElement();
    if (node.type === "code") {
      const code = element("code");
      code.textContent = node.text;
      return code;
    }
    const content = inlineNodes(node.children);
    if (node.type === "link") return linkTo(node.href, ...content);
    const outer = element(INLINE_TAGS[node.type]);
    outer.append(...content);
    return outer;
  });
}

/**
 * Return a link that opens in a window of its own, without access to this page. Its host is shown after a text
 * that is not the address itself, because the text may look like another address.
 */
export function linkTo(href, ...content) {
  const link = element("a");
  link.href = href;
  link.append(...content);
  if (![href, href.slice(0, -1)].includes(link.textContent)) link.dataset.host = link.host;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  return link;
}

/** Return the mark of a place where reading was resumed. It has no text, so that copies are exact. */
export function seamElement() {
  const seam = element("span", "seam");
  seam.title = "The connection was cut here, and reading resumed after this position.";
  return seam;
}

/** Create an element with a class. */
export function element(tag, className = "") {
  const created = document.createElement(tag);
  if (className) created.className = className;
  return created;
}
