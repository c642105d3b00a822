/**
 * A parser of `text/event-stream`, as the HTML standard describes it:
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** Size of one event's lines, in UTF-16 code units, past which the stream is refused. */
const MAX_EVENT_LENGTH = 64 * 1024 * 1024;

/**
 * Turns the bytes of an event stream into events. The result does not depend on how the network splits the
 * bytes, and the time is proportional to their number.
 */
export class EventStreamParser {
  /** The reconnection time of the last `retry:` line, in milliseconds. Undefined: there was none. */
  retryMs;

  #decoder = new TextDecoder(); // removes a byte order mark, and replaces invalid bytes
  #line = "";
  #isAfterCarriageReturn = false;
  #id = "";
  #type = "";
  #data = "";
  #hasData = false;

  /**
   * Return the events that these bytes complete, each as `{id, event, data}`. `id` is that of the last event
   * that has one, as in `MessageEvent.lastEventId`.
   *
   * @param {Uint8Array} bytes
   * @throws {RangeError} an event is larger than this parser accepts
   */
  feed(bytes) {
    const chunk = this.#decoder.decode(bytes, { stream: true });
    const events = [];
    if (!chunk) return events;
    let start = this.#isAfterCarriageReturn && chunk[0] === "\n" ? 1 : 0;
    this.#isAfterCarriageReturn = chunk.endsWith("\r");
    const lineEnds = /\r\n?|\n/g; // one search for both: two would each scan to the end for every line
    lineEnds.lastIndex = start;
    for (let end = lineEnds.exec(chunk); end; end = lineEnds.exec(chunk)) {
      const line = this.#line + chunk.slice(start, end.index);
      this.#line = "";
      start = lineEnds.lastIndex;
      if (line) this.#field(line);
      else this.#dispatch(events);
    }
    this.#line += chunk.slice(start);
    if (this.#line.length + this.#data.length > MAX_EVENT_LENGTH) {
      throw new RangeError(`an event is longer than ${MAX_EVENT_LENGTH} characters`);
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") {
      this.#data += this.#hasData ? `\n${value}` : value;
      this.#hasData = true;
    } else if (name === "event") {
      this.#type = value;
    } else if (name === "id") {
      if (!value.includes("\0")) this.#id = value;
    } else if (name === "retry" && /^[0-9]+$/.test(value)) {
      this.retryMs = Number(value);
    }
  }

  #dispatch(events) {
    if (this.#hasData) {
      events.push({ id: this.#id, event: this.#type || "message", data: this.#data });
    }
    this.#type = this.#data = "";
    this.#hasData = false;
  }
}
