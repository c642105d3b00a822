/** The answer of a stream, built from its events. */

import { invalidResponse } from "./errors.js";
import { PartialJson } from "./partial_json.js";

/** An answer that is built event by event. It does not depend on how the server merged the deltas. */
export class Answer {
  text = "";
  reasoning = "";
  /** The calls whose arguments are complete and valid, in the order of their completion. */
  toolCalls = [];
  /** The event `finished`, or undefined before it is received. */
  finished = undefined;
  /** The latest usage, or undefined before any is received. */
  usage = undefined;
  /** Whether the JSON answer follows the schema: `{isValid, violations}`. Undefined before it is received. */
  jsonResult = undefined;
  #partialJson = new PartialJson();
  #blocks = new Map();

  /** The JSON answer as far as it is complete. Undefined: no value is. */
  get json() {
    return this.#partialJson.value;
  }

  /** Add the next event. Events of an unknown type change nothing. */
  add(event) {
    const content = event[event.type];
    switch (event.type) {
      case "text":
        this.text += content.text;
        this.#add("text", content);
        break;
      case "reasoning":
        this.reasoning += content.text;
        this.#add("reasoning", content);
        break;
      case "toolCall":
        this.toolCalls.push(content.toolCall);
        this.#block("toolCall", content.index).toolCall = content.toolCall;
        break;
      case "jsonValue":
        this.#addValue(content);
        break;
      case "jsonResult":
        this.jsonResult = jsonResultOf(content);
        break;
      case "usage":
        this.usage = content;
        break;
      case "finished":
        this.finished = content;
        this.usage = content.usage ?? this.usage;
        break;
    }
  }

  /**
   * Return the message to append to the messages of the next request. It has what some providers need back:
   * signatures and other state. Tool calls that are incomplete or invalid are left out.
   */
  message() {
    const blocks = [...this.#blocks.values()].sort((a, b) => a.index - b.index);
    const parts = blocks.map(({ kind, text, signature, providerState, toolCall }) => {
      if (kind === "toolCall") return { toolCall };
      const state = providerState && { providerState };
      if (kind === "reasoning") return { reasoning: { text, ...(signature && { signature }), ...state } };
      return { text, ...state };
    });
    return { role: "ROLE_ASSISTANT", parts };
  }

  #addValue(value) {
    try {
      this.#partialJson.add(value);
    } catch (error) {
      throw invalidResponse(`a JSON value is invalid: ${error.message}`, 0, error);
    }
  }

  #add(kind, { index, text, signature, providerState }) {
    if (!text && !signature && !providerState) return;
    const block = this.#block(kind, index);
    block.text += text;
    block.signature = signature || block.signature;
    block.providerState = providerState || block.providerState;
  }

  #block(kind, index = 0) {
    const key = `${index} ${kind}`;
    let block = this.#blocks.get(key);
    if (!block) this.#blocks.set(key, (block = { kind, index, text: "" }));
    return block;
  }
}

/** Return the content of an event `jsonResult` with all its fields: JSON leaves out those with default values. */
export function jsonResultOf({ isValid = false, violations = [] }) {
  return { isValid, violations: violations.map(({ pointer = "", description = "" }) => ({ pointer, description })) };
}
