/** The answer of a stream, built from its events. */

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
  #blocks = new Map();

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
