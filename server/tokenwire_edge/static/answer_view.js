/** Draw an answer from its events: text, reasoning, tool calls, sources and how it ended. */

import { jsonResultOf } from "./answer.js";
import { isBlockedAnswer } from "./filters.js";
import { safeAddress } from "./inline.js";
import { JsonView, resultElement, verdictOf } from "./json_view.js";
import { MarkdownView, element, linkTo } from "./markdown_view.js";

const ENDINGS = {
  FINISH_REASON_STOP: "Complete",
  FINISH_REASON_STOP_SEQUENCE: "Ended at a stop sequence",
  FINISH_REASON_MAX_TOKENS: "Cut off at the limit of tokens",
  FINISH_REASON_TOOL_CALLS: "Complete, with tool calls",
  FINISH_REASON_CONTENT_FILTER: "Stopped by the provider's content filter",
  FINISH_REASON_REFUSAL: "The model refused",
  FINISH_REASON_PAUSED: "Paused by the provider",
  FINISH_REASON_TIME_LIMIT: "Stopped at the time limit",
  FINISH_REASON_CANCELLED: "Cancelled",
  FINISH_REASON_BUDGET: "Stopped at the budget",
  FINISH_REASON_CONTEXT_FULL: "The context window is full",
  FINISH_REASON_INVALID_TOOL_CALLS: "Ended with invalid tool calls",
};

const MAX_BEGINNING = 2000;

/** Return how a stream ended, for people. */
export function endingOf(finished) {
  if (isBlockedAnswer(finished)) return "Stopped by a content filter of the server";
  const known = ENDINGS[finished.reason];
  return known ?? `Ended: ${finished.providerFinishReason || "for an unknown reason"}`;
}

export class AnswerView {
  #blocks = new Map();
  #changed = new Set();
  #container;
  #sources = null;
  #bufferedTexts; // by index: those that may be the JSON answer, whose values are drawn in place of its text
  #jsonIndex;

  /** Answers are drawn in `container`, which is emptied first. With `isJson`, one in JSON is expected. */
  constructor(container, { isJson = false } = {}) {
    this.#container = container;
    this.#bufferedTexts = isJson ? new Map() : null;
    container.replaceChildren();
    /** Whether the answer follows its schema, for people. Empty: it has none, or is not checked yet. */
    this.verdict = "";
    /** The first 2,000 characters or a few more, which a screen reader reads out by itself. */
    this.beginning = "";
  }

  /** Take an event. Nothing is drawn until `draw`. */
  add(event) {
    const content = event[event.type];
    switch (event.type) {
      case "text":
        if (content.text) {
          if (this.beginning.length < MAX_BEGINNING) this.beginning += content.text.slice(0, MAX_BEGINNING);
          this.#addText(content);
        }
        break;
      case "jsonValue":
        this.#addValue(content);
        break;
      case "jsonResult":
        this.#addResult(jsonResultOf(content));
        break;
      case "reasoning":
        if (content.text) this.#block("reasoning", content.index, ReasoningBlock).append(content.text);
        break;
      case "toolCallStarted":
        this.#block("tool", content.index, ToolBlock).start(content.name);
        break;
      case "toolCallDelta":
        this.#block("tool", content.index, ToolBlock).append(content.argumentsJson ?? "");
        break;
      case "toolCall":
        this.#block("tool", content.index, ToolBlock).complete(content.toolCall);
        break;
      case "invalidToolCall":
        this.#block("tool", content.index, ToolBlock).reject(content);
        break;
      case "citation":
        this.#addSource(content);
        break;
      case "notice":
        if (content.model) this.#addNote(`${content.model} continues the answer.`);
        break;
      case "finished":
        this.#addRefusal(content.refusal);
        break;
    }
  }

  /** Mark the end of the text so far as a place where reading was resumed. */
  markSeam() {
    const last = [...this.#blocks.values()].at(-1);
    last?.markSeam?.();
    if (last) this.#changed.add(last);
  }

  /** Draw what has changed. Call it once a frame. */
  draw() {
    for (const block of this.#changed) block.draw();
    this.#changed.clear();
  }

  /** Draw the final state: no more events follow. */
  finish() {
    this.#showBufferedTexts();
    for (const block of this.#blocks.values()) {
      block.finish?.();
      block.draw();
    }
    this.#changed.clear();
  }

  #block(kind, index = 0, Block) {
    const key = `${kind} ${index}`;
    let block = this.#blocks.get(key);
    if (block === undefined) {
      block = new Block();
      this.#container.append(block.element);
      this.#blocks.set(key, block);
    }
    this.#changed.add(block);
    return block;
  }

  #addText({ text, index = 0, phase }) {
    if (index === this.#jsonIndex) return;
    const isBuffered = this.#bufferedTexts && phase !== "TEXT_PHASE_COMMENTARY" && !this.#blocks.has(`text ${index}`);
    if (isBuffered) this.#bufferedTexts.set(index, (this.#bufferedTexts.get(index) ?? "") + text);
    else this.#block("text", index, MarkdownView).append(text);
  }

  #addValue(value) {
    const { index = 0 } = value;
    if (this.#jsonIndex === undefined) {
      this.#jsonIndex = index;
      this.#bufferedTexts?.delete(index);
      this.#showBufferedTexts();
    }
    this.#block("json", index, JsonView).append(value);
  }

  #addResult(result) {
    this.#showBufferedTexts();
    this.verdict = verdictOf(result);
    this.#container.append(resultElement(result));
  }

  /** Draw the texts that are not the JSON answer. Later ones are drawn at once. */
  #showBufferedTexts() {
    const texts = this.#bufferedTexts ?? [];
    this.#bufferedTexts = null;
    for (const [index, text] of texts) this.#addText({ text, index });
  }

  #addSource({ url = "", title = "", citedText = "" }) {
    if (this.#sources === null) {
      this.#sources = element("ol", "sources");
      this.#container.append(this.#sources);
    }
    const item = element("li");
    const href = safeAddress(url);
    const label = title || url || citedText.slice(0, 200) || "unnamed source";
    item.append(href === null ? label : linkTo(href, label));
    this.#sources.append(item);
  }

  #addNote(text) {
    const note = element("p", "note");
    note.textContent = text;
    this.#container.append(note);
  }

  #addRefusal(refusal) {
    const text = [refusal?.category, refusal?.explanation].filter(Boolean).join(": ");
    if (text) this.#addNote(text);
  }
}

/** Folded, so that it does not push the answer away. */
class ReasoningBlock extends MarkdownView {
  #summary;
  #characters = 0;

  constructor() {
    super();
    const body = this.element;
    const details = element("details", "reasoning");
    this.#summary = element("summary");
    details.append(this.#summary, body);
    this.element = details;
  }

  append(text) {
    this.#characters += text.length;
    super.append(text);
  }

  draw() {
    this.#summary.textContent = `Reasoning, ${this.#characters.toLocaleString("en")} characters`;
    super.draw();
  }
}

class ToolBlock {
  #name;
  #state;
  #arguments;
  #pending = "";

  constructor() {
    this.element = element("section", "tool");
    const head = this.element.appendChild(element("p"));
    this.#name = element("code");
    this.#state = element("span", "state");
    head.append("Tool call ", this.#name, " ", this.#state);
    this.#arguments = this.element.appendChild(element("pre"));
    this.#arguments.tabIndex = 0;
    this.#arguments.append("");
  }

  start(name) {
    this.#name.textContent = name;
    this.#state.textContent = "receiving arguments";
  }

  append(text) {
    this.#pending += text;
  }

  complete({ name, argumentsJson }) {
    this.#end(name, "complete", argumentsJson);
  }

  reject({ name, argumentsText, problem }) {
    this.#end(name, `invalid: ${problem}`, argumentsText);
    this.element.classList.add("invalid");
  }

  draw() {
    if (this.#pending) this.#arguments.firstChild.appendData(this.#pending);
    this.#pending = "";
  }

  #end(name, state, text = "") {
    this.#name.textContent = name;
    this.#state.textContent = state;
    this.#pending = "";
    this.#arguments.replaceChildren(document.createTextNode(text));
  }
}
