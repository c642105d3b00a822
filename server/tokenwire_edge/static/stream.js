/** One stream of events that survives broken connections. Pure of HTTP and WebSocket: see `Source`. */

import { Answer } from "./answer.js";
import { TokenwireError, connectionLost } from "./errors.js";

/** Events that are made for one reader: they repeat the sequence of the last event before them. */
const PER_READER = new Set(["heartbeat", "notice", "usage"]);
/** Fields of deltas that JSON leaves out where they are empty. */
const PIECES = { text: "text", reasoning: "text", toolCallDelta: "argumentsJson" };

/** Longest wait before the first attempt to reconnect. It doubles with each further one. */
const FIRST_WAIT_MS = 200;
/** Longest wait before any attempt. A server that names a later time is not waited for. */
const MAX_WAIT_MS = 30_000;
/** How long a resumable stream runs on without its reader, unless its request has another linger. */
const LINGER = "30s";
/** How long a stream that is left waits for its id, to cancel it. */
const ID_WAIT_MS = 5_000;

/**
 * Where a stream's events come from.
 *
 * @typedef {object} Source
 * @property {(position: {streamId: string, after: number, controller: AbortController}) => Promise<Wire>} open
 *   Connect: start the stream, or read it after a cursor if it has an id. Aborting the controller ends it.
 * @property {(streamId: string) => Promise<void>} cancel Stop the generation for all readers.
 *
 * @typedef {object} Wire
 * @property {string} streamId Empty: not known yet.
 * @property {AsyncIterable<object>} events TokenEvents in protobuf's JSON mapping.
 * @property {boolean} isAtEnd Once `events` has ended: whether the stream has, or only the connection.
 * @property {() => number | undefined} [retryMs] The reconnection time that the edge asked for.
 */

/**
 * A stream: an async iterable of its events, which can be read once.
 *
 * The request is sent at once. The connection is read only as fast as the events are taken. If it breaks, the
 * stream reconnects after the last event that it received, so that no event is missing and none is repeated.
 * `break` out of the loop, or the abort of `signal`, leaves the stream and closes the connection.
 */
export class ChatStream {
  #source;
  #options;
  #streamId;
  #isStarted; // before, the id is that of a header, which browsers also show of a head that was cut
  #lastSequence;
  #answer = new Answer();
  #attempts = 0;
  #left = new AbortController(); // ends the reading
  #controller; // ends the connection
  #opening;
  #isRead = false;
  #isOver = false;
  #settle;
  #settled;

  /** @param {Source} source */
  constructor(source, { streamId = "", after = 0, ...options }) {
    this.#source = source;
    this.#options = options;
    this.#streamId = streamId;
    this.#isStarted = streamId !== "";
    this.#lastSequence = after;
    this.#settled = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.#settled.catch(() => {}); // the loop over the events throws it too
    if (options.signal?.aborted) {
      this.#end(options.signal.reason);
      this.#left.abort(options.signal.reason);
      this.#opening = this.#settled;
    } else {
      options.signal?.addEventListener("abort", this.#onabort);
      this.#open();
    }
  }

  /** Id of the stream. Empty until the server has accepted the request. */
  get streamId() {
    return this.#streamId;
  }

  /** Sequence of the last event that was received: the cursor to resume after. */
  get lastSequence() {
    return this.#lastSequence;
  }

  /** The text of the events that were taken so far. */
  get text() {
    return this.#answer.text;
  }

  /** The JSON answer as far as it is complete, if the request has `streamValues`. Undefined: no value is. */
  get json() {
    return this.#answer.json;
  }

  [Symbol.asyncIterator]() {
    if (this.#isRead) throw new TypeError("the stream is already being read");
    this.#isRead = true;
    return this.#read();
  }

  /**
   * Return the whole answer: `{text, reasoning, toolCalls, message, json, jsonResult, finished, usage}`. Reads
   * the stream to its end, unless a loop does that. Do not await it inside that loop.
   *
   * @throws {TokenwireError} the stream failed
   */
  async final() {
    await new Promise((resolve) => setTimeout(resolve)); // a loop that starts in this turn comes first
    if (!this.#isRead) for await (const _ of this);
    await this.#settled;
    const { text, reasoning, toolCalls, json, jsonResult, finished, usage } = this.#answer;
    return { text, reasoning, toolCalls, message: this.#answer.message(), json, jsonResult, finished, usage };
  }

  /** Stop the generation for all readers. The stream then ends with `finished`, reason CANCELLED. */
  async cancel() {
    if (!this.#isStarted) await this.#opening;
    await this.#source.cancel(this.#streamId);
  }

  /** Break the connection, as a network failure does. For tests and demonstrations of reconnecting. */
  disconnect() {
    if (!this.#isOver) this.#controller.abort(connectionLost("disconnected by the program"));
  }

  #open() {
    const controller = (this.#controller = new AbortController());
    const streamId = this.#isStarted ? this.#streamId : "";
    const position = { streamId, after: this.#lastSequence, controller };
    this.#opening = this.#source.open(position).then((wire) => {
      if (!this.#isStarted) this.#streamId = wire.streamId;
      return wire;
    });
    this.#opening.catch(() => {}); // the loop over the events throws it
  }

  async *#read() {
    try {
      for (;;) {
        let wire;
        try {
          wire = await unlessAborted(this.#left.signal, this.#opening);
          for await (const event of wire.events) {
            if (!this.#accept(event)) continue;
            yield event;
            if (event.type === "finished") return;
          }
          if (wire.isAtEnd) return this.#end();
          throw connectionLost("the connection ended before the stream");
        } catch (error) {
          await this.#recover(this.#cause(error), wire?.retryMs?.());
        }
      }
    } catch (error) {
      if (error instanceof TokenwireError) {
        error.streamId ||= this.#streamId;
        error.lastSequence ||= this.#lastSequence;
        this.#end(error); // the stream failed, or may be resumed by hand: there is nothing to cancel
      }
      this.#leave(error);
      throw error;
    } finally {
      this.#leave(new DOMException("the stream was left before its end", "AbortError"));
    }
  }

  /** Take an event. Return false if it has been received before. */
  #accept(event) {
    const sequence = Number(event.sequence ?? 0);
    event.type = Object.keys(event).find((name) => name !== "sequence") ?? "unknown";
    const piece = PIECES[event.type];
    if (piece) event[event.type][piece] ??= "";
    if (sequence > this.#lastSequence) {
      this.#lastSequence = sequence;
      this.#attempts = 0;
    } else if (!PER_READER.has(event.type)) {
      return false;
    }
    if (event.type === "started") {
      this.#streamId = event.started.streamId;
      this.#isStarted = true;
    }
    this.#answer.add(event);
    if (event.type === "finished") this.#end();
    return true;
  }

  /** Return why reading failed: aborting hides the reason behind errors of fetch. */
  #cause(error) {
    const aborted = [this.#left.signal, this.#controller?.signal].find((signal) => signal?.aborted);
    return aborted ? aborted.reason : error;
  }

  /** Wait, and connect again. Throws the error if that cannot help. */
  async #recover(error, retryMs) {
    const { isResumable, maxAttempts, onreconnect } = this.#options;
    const isLost = error instanceof TokenwireError && error.isResumable;
    // Before the stream has started, an answer with a reason is a refusal of the request.
    const isRefused = !this.#isStarted && error.reason !== "CONNECTION_LOST" && error.reason;
    if (!isResumable || !isLost || isRefused) throw error;
    const retryAfterMs = (error.retryAfterS ?? 0) * 1000;
    if (this.#attempts >= maxAttempts || retryAfterMs > MAX_WAIT_MS) throw error;
    // Full jitter, so that many readers that were disconnected together do not return together.
    const longestMs = Math.min((retryMs ?? FIRST_WAIT_MS) * 2 ** this.#attempts, MAX_WAIT_MS);
    this.#attempts += 1;
    let timer;
    const waitMs = Math.max(retryAfterMs, Math.random() * longestMs);
    const waited = new Promise((resolve) => (timer = setTimeout(resolve, waitMs)));
    await unlessAborted(this.#left.signal, waited).finally(() => clearTimeout(timer));
    onreconnect?.(this.#attempts, this.#lastSequence);
    this.#open();
  }

  #onabort = () => this.#leave(this.#options.signal.reason);

  /** Close the connection if the stream has not ended, and cancel the generation if that is wanted. */
  #leave(reason) {
    if (!this.#end(reason)) return;
    this.#left.abort(reason);
    const controller = this.#controller;
    const close = () => controller.abort(reason);
    if (!this.#options.cancelsWhenLeft) return close();
    const cancelled = this.cancel(); // before `close`, which leaves the stream on a socket
    if (this.#streamId) close();
    const timer = setTimeout(close, ID_WAIT_MS); // the answer to the request brings the stream's id
    cancelled
      .catch(() => {}) // the generation then ends after its linger
      .finally(() => {
        clearTimeout(timer);
        close();
      });
  }

  /** Record the end. Return false if it was recorded before. */
  #end(error) {
    if (this.#isOver) return false;
    this.#isOver = true;
    this.#options.signal?.removeEventListener("abort", this.#onabort);
    if (error === undefined) this.#settle.resolve();
    else this.#settle.reject(error);
    return true;
  }
}

/** Settle as the promise does, or reject when the signal is aborted. */
export function unlessAborted(signal, promise) {
  return new Promise((resolve, reject) => {
    const onabort = () => reject(signal.reason);
    if (signal.aborted) onabort();
    signal.addEventListener("abort", onabort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onabort));
  });
}

/**
 * Return the options of a ChatStream for a request, and the `request` to send.
 *
 * A resumable stream has to outlive its connection, and its request needs an id, so that sending it again
 * starts no second generation. A stream whose request has no `retention` still ends when it is left.
 */
export function planChat(request, { resume = true, signal, onreconnect }) {
  const { retention } = request;
  const onDisconnect = retention?.onDisconnect ?? retention?.on_disconnect;
  if (!resume || (retention && onDisconnect !== "ON_DISCONNECT_CONTINUE")) {
    return { request, signal, onreconnect, isResumable: false, cancelsWhenLeft: false };
  }
  const planned = {
    retention: { onDisconnect: "ON_DISCONNECT_CONTINUE", linger: LINGER },
    ...((request.requestId ?? request.request_id) ? {} : { requestId: randomId() }),
    ...request,
  };
  return { request: planned, signal, onreconnect, isResumable: true, cancelsWhenLeft: !retention };
}

/** Return the options of a ChatStream that reads after a cursor. */
export function planResume(streamId, { after = 0, resume = true, signal, onreconnect }) {
  return { streamId, after, signal, onreconnect, isResumable: resume, cancelsWhenLeft: false };
}

/** Return 128 random bits. `crypto.randomUUID` does not exist on pages that are not served over HTTPS. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
