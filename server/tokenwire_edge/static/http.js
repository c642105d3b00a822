/** The edge over HTTP: calls, and streams of server-sent events. */

import { connectionLost, invalidResponse, problemError, responseError } from "./errors.js";
import { EventStreamParser } from "./sse.js";
import { unlessAborted } from "./stream.js";

const EVENT_STREAM = "text/event-stream";
/** How long a call that is no stream may take. The edge's own limit is shorter. */
const CALL_TIMEOUT_MS = 90_000;
/** How long the end of a response is waited for after `finished`, so that its connection can be used again. */
const DRAIN_MS = 1_000;

/** One edge: its address, and the key for it. */
export class Edge {
  #fetch;

  /** @param {{baseUrl: string, key: string | (() => string | Promise<string>), fetch: typeof fetch}} options */
  constructor({ baseUrl, key, fetch }) {
    this.baseUrl = baseUrl.replace(/\/+$/, "");
    /** The key for the next requests: a text, or a function that returns one. */
    this.key = key;
    this.#fetch = fetch;
  }

  /** Return the key for the next request. */
  async currentKey() {
    return typeof this.key === "function" ? await this.key() : this.key;
  }

  /** Send a request, and return the JSON of its response. */
  async call(method, path, { body, signal, keepalive } = {}) {
    const controller = new AbortController();
    const onabort = () => controller.abort(signal.reason);
    if (signal?.aborted) onabort();
    signal?.addEventListener("abort", onabort);
    try {
      return await within(CALL_TIMEOUT_MS, controller, async () => {
        const response = await this.request(method, path, { body, controller, keepalive });
        return response.status === 204 ? {} : await response.json();
      });
    } finally {
      signal?.removeEventListener("abort", onabort);
    }
  }

  /** Send a request, and return its response. Throws the error that the response is. */
  async request(method, path, { body, controller, accept = "application/json", keepalive = false }) {
    const headers = { accept };
    const key = await this.currentKey();
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const { signal } = controller;
    const init = { method, headers, body: JSON.stringify(body), cache: "no-store", keepalive, signal };
    let response;
    try {
      response = await this.#fetch(this.baseUrl + path, init);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw connectionLost(`the edge cannot be reached: ${error.message}`, error);
    }
    if (!response.ok) throw await responseError(response);
    return response;
  }

  cancelStream(streamId, { signal } = {}) {
    return this.call("POST", `${streamPath(streamId)}/cancel`, { signal, keepalive: true });
  }
}

export function streamPath(streamId) {
  return `/v1/streams/${encodeURIComponent(streamId)}`;
}

/** The events of a stream over HTTP: POST starts it, GET continues it. Implements `Source` of stream.js. */
export class HttpSource {
  #edge;
  #request;
  #idleTimeoutMs;

  /** @param {Edge} edge */
  constructor(edge, request, idleTimeoutMs) {
    this.#edge = edge;
    this.#request = request;
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  async open({ streamId, after, controller }) {
    const response = await within(this.#idleTimeoutMs, controller, () => {
      const init = { controller, accept: EVENT_STREAM };
      if (!streamId) return this.#edge.request("POST", "/v1/chat/stream", { ...init, body: this.#request });
      // Not in Last-Event-ID: pages of other origins would need a permission for that header.
      return this.#edge.request("GET", `${streamPath(streamId)}/events?after=${after}`, init);
    });
    if (response.status === 204) return { streamId, events: [], isAtEnd: true };
    const type = response.headers.get("content-type") ?? "";
    if (!type.startsWith(EVENT_STREAM)) {
      // Browsers also return a response whose head was cut off.
      const error = EVENT_STREAM.startsWith(type)
        ? connectionLost("the connection broke in the head of the response")
        : invalidResponse(`expected ${EVENT_STREAM}, got ${type}`, response.status);
      controller.abort(error);
      throw error;
    }
    const parser = new EventStreamParser();
    return {
      streamId: response.headers.get("tokenwire-stream-id") ?? streamId,
      events: readEvents(response, parser, controller, this.#idleTimeoutMs),
      isAtEnd: false, // `finished` comes before it
      retryMs: () => parser.retryMs,
    };
  }

  async cancel(streamId) {
    await this.#edge.cancelStream(streamId);
  }
}

/** Yield the TokenEvents of a response. Reads only when the next one is requested. */
async function* readEvents(response, parser, controller, idleTimeoutMs) {
  const reader = response.body.getReader();
  let isFinished = false;
  try {
    for (;;) {
      const { done, value } = await within(idleTimeoutMs, controller, () =>
        reader.read().catch((error) => {
          throw connectionLost(`the connection broke: ${error.message}`, error);
        }),
      );
      if (done) return;
      for (const { event, data } of parsed(() => parser.feed(value))) {
        const content = parsed(() => JSON.parse(data));
        if (event === "error") throw problemError(content);
        isFinished = event === "finished";
        yield content;
      }
    }
  } finally {
    if (isFinished) drain(reader);
    else reader.cancel().catch(() => {});
  }
}

/** Read the end of a response in the background. */
async function drain(reader) {
  const timer = setTimeout(() => reader.cancel().catch(() => {}), DRAIN_MS);
  try {
    while (!(await reader.read()).done);
  } catch {
    // The connection broke: it cannot be used again, and nothing else is lost.
  } finally {
    clearTimeout(timer);
  }
}

/** Await an action, until the controller is aborted. Abort it when the action takes longer than that. */
async function within(timeoutMs, controller, action) {
  const onSilence = () => controller.abort(connectionLost(`no data for ${timeoutMs / 1000} s`));
  const timer = setTimeout(onSilence, timeoutMs);
  try {
    return await unlessAborted(controller.signal, action());
  } finally {
    clearTimeout(timer);
  }
}

function parsed(parse) {
  try {
    return parse();
  } catch (error) {
    throw invalidResponse(`the event stream is invalid: ${error.message}`, 200, error);
  }
}
