/** Draw a JSON answer while it fills in, and the result of its check. */

import { changeOf, jsonLines } from "./json_lines.js";
import { element, seamElement } from "./markdown_view.js";
import { PartialJson } from "./partial_json.js";

/** Widest indentation of the second line of a value, in characters: it must leave room on a phone. */
const MAX_HANG = 12;

export class JsonView {
  #partial = new PartialJson();
  #body;
  #lines = [];
  #isCut = false;
  #isSeamDue = false;

  constructor() {
    this.element = element("section", "json");
    this.#body = this.element.appendChild(element("pre"));
  }

  /** Add the content of an event `jsonValue`. */
  append(value) {
    this.#partial.add(value);
  }

  /** Mark the next value that is drawn: before it, the connection was cut. */
  markSeam() {
    this.#isSeamDue = true;
  }

  /** Bring the DOM up to date. Call it once a frame: only lines that have changed are drawn again. */
  draw() {
    if (this.#isCut) return; // there is no room for more
    const { lines, isCut } = jsonLines(this.#partial.value);
    this.#replace(lines);
    if (isCut) this.#cut();
  }

  #replace(lines) {
    const { first, end, shownEnd } = changeOf(this.#lines, lines);
    const { children } = this.#body;
    const following = children[shownEnd] ?? null;
    for (let place = first; place < Math.max(end, shownEnd); place += 1) {
      if (place >= end) children[end].remove();
      else if (place < shownEnd) fill(children[place], lines[place]);
      else this.#body.insertBefore(this.#lineElement(lines[place]), following);
    }
    this.#lines = lines;
  }

  #lineElement(line) {
    const created = element("span", "line");
    if (this.#isSeamDue) created.append(seamElement());
    this.#isSeamDue = false;
    fill(created, line);
    return created;
  }

  #cut() {
    this.#isCut = true;
    const note = this.element.appendChild(element("p", "note"));
    note.textContent = "The answer is longer. Only its beginning is shown.";
  }
}

/** Write a line into its element. A mark of a cut connection stays. */
function fill(target, { depth, tokens }) {
  const seam = target.querySelector(".seam");
  target.style.setProperty("--hang", Math.min(2 * depth + 2, MAX_HANG));
  target.replaceChildren(...(seam ? [seam] : []), "  ".repeat(depth));
  for (const { kind, text } of tokens) {
    if (kind === "mark") {
      target.append(text);
      continue;
    }
    target.appendChild(element("span", kind)).textContent = text;
  }
}

/** Return what the check of an answer says, in one sentence. */
export function verdictOf({ isValid, violations }) {
  if (isValid) return "The answer follows the schema.";
  const problems = violations.length === 1 ? "1 problem" : `${violations.length} problems`;
  return `The answer does not follow the schema: ${problems}.`;
}

/** Draw the result of the check, with the violations and their places. */
export function resultElement(result) {
  const section = element("section", result.isValid ? "check" : "check failure");
  section.appendChild(element("p")).textContent = verdictOf(result);
  if (!result.violations.length) return section;
  const list = section.appendChild(element("ul"));
  for (const { pointer, description } of result.violations) {
    const item = list.appendChild(element("li"));
    item.appendChild(element("code")).textContent = pointer || "whole answer";
    item.append(` ${description}`);
  }
  return section;
}
