/**
 * The browser client of Tokenwire's edge. It has no dependencies, needs no build step, and also runs in Node.
 *
 *     import { Tokenwire } from "/static/tokenwire.js";
 *     const client = new Tokenwire({ key });
 *     for await (const event of client.chat({ model: "openai/demo", prompt: "Hello" })) { ... }
 */

import { TokenwireError } from "./errors.js";
import { Edge, HttpSource, streamPath } from "./http.js";
import { PartialJson } from "./partial_json.js";
import { TokenwireSocket } from "./socket.js";
import { ChatStream, planChat, planResume, unlessAborted } from "./stream.js";

export { ChatStream, PartialJson, TokenwireError, TokenwireSocket };

/** A client of one edge. Errors are `TokenwireError`s, or the reason of the signal that was aborted. */
export class Tokenwire {
  #edge;
  #options;

  /** @param {import("./tokenwire.js").TokenwireOptions} [options] */
  constructor({
    baseUrl = "",
    key = "",
    fetch = (...request) => globalThis.fetch(...request),
    WebSocket = globalThis.WebSocket,
    idleTimeoutMs = 45_000,
    maxAttempts = 10,
  } = {}) {
    this.#edge = new Edge({ baseUrl, key, fetch });
    this.#options = { WebSocket, idleTimeoutMs, maxAttempts };
  }

  /** The key for the next requests: a text, or a function that returns one. */
  get key() {
    return this.#edge.key;
  }

  set key(key) {
    this.#edge.key = key;
  }

  /** Start a stream. The request is sent at once. */
  chat(request, options = {}) {
    return this.#stream(planChat(request, options));
  }

  /** Read a stream after a cursor. Leaving it does not cancel its generation unless its request says so. */
  resume(streamId, options = {}) {
    return this.#stream(planResume(streamId, options));
  }

  /** Open a WebSocket for several streams. Resolves once the edge has accepted the key. */
  async connect({ signal } = {}) {
    signal?.throwIfAborted();
    const socket = new TokenwireSocket(this.#edge, this.#options);
    const opening = socket.open();
    try {
      await (signal ? unlessAborted(signal, opening) : opening);
    } catch (error) {
      socket.close(error);
      throw error;
    }
    return socket;
  }

  /** Return the models that the key may call, with their prices. */
  async models({ signal } = {}) {
    return (await this.#edge.call("GET", "/v1/models", { signal })).models ?? [];
  }

  /** Return the summary of the tenant's usage. `query` has the parameters of `GET /v1/usage/summary`. */
  usage(query = {}, { signal } = {}) {
    const parameters = new URLSearchParams(query).toString();
    return this.#edge.call("GET", `/v1/usage/summary${parameters && `?${parameters}`}`, { signal });
  }

  /** Return the number of input tokens and the estimated cost of a request, without running it. */
  countTokens(request, { signal } = {}) {
    return this.#edge.call("POST", "/v1/count", { body: request, signal });
  }

  /** Return the state of a stream. */
  getStream(streamId, { signal } = {}) {
    return this.#edge.call("GET", streamPath(streamId), { signal });
  }

  /** Stop a generation for all readers. Idempotent. Resolves once the stream has ended. */
  cancelStream(streamId, options = {}) {
    return this.#edge.cancelStream(streamId, options);
  }

  /** Cancel a stream and delete its content. */
  deleteStream(streamId, { signal } = {}) {
    return this.#edge.call("DELETE", streamPath(streamId), { signal });
  }

  #stream({ request, ...plan }) {
    const { idleTimeoutMs, maxAttempts } = this.#options;
    return new ChatStream(new HttpSource(this.#edge, request, idleTimeoutMs), { ...plan, maxAttempts });
  }
}
