/** The two ways to get an answer: as a stream, and whole. */

import { AnswerView, endingOf } from "./answer_view.js";
import { responseError } from "./errors.js";
import { isBlockedRequest } from "./filters.js";
import { Measurement } from "./measure.js";

const WIRE_OUT_MS = 1500;
const CANCEL_WAIT_MS = 5000;
const USAGE_INTERVAL_MS = 1000;

/** The page's connection to the edge. While it is pulled, requests wait. */
export class Wire {
  #back = Promise.resolve();

  fetch = async (...request) => {
    await this.#back;
    return globalThis.fetch(...request);
  };

  takeOut(milliseconds) {
    this.#back = new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}

/**
 * A streamed answer.
 *
 * `state` is "waiting", "streaming", "out" (disconnected), "ended" or "failed". `onstate` is called
 * after each change. `ending` says how it ended, and `error` why it failed. `started` is the stream's first event.
 */
export class StreamedRun {
  state = "waiting";
  ending = "";
  error = null;
  started = null;
  measurement = new Measurement(performance.now());
  #client;
  #wire;
  #stream;
  #controller = new AbortController();
  #pauseMs;
  #hasLeft = false;
  #isCut = false;
  #isStopped = false;
  #onstate;
  #usageTimer;
  #onceEnded = () => {};

  /** Send the request. `pauseMs()` returns for how long to leave after each read. */
  constructor({ client, wire, request, container, pauseMs, onstate }) {
    this.answer = new AnswerView(container, { isJson: request.responseFormat !== undefined });
    this.#client = client;
    this.#wire = wire;
    this.#pauseMs = pauseMs;
    this.#onstate = onstate;
    this.#stream = client.chat(request, this.#options());
  }

  get isRunning() {
    return this.state !== "ended" && this.state !== "failed";
  }

  /** Read the stream to its end. Never rejects: see `error`. */
  async read() {
    try {
      while (!(await this.#readOnce())) await this.#leave();
      this.#end("ended");
    } catch (error) {
      if (this.#controller.signal.aborted) {
        this.ending = "Stopped";
        this.#end("ended");
      } else {
        this.error = error;
        this.ending = endingOfError(error);
        this.#end("failed");
      }
    }
  }

  /** Stop the generation. What has arrived stays. */
  async stop() {
    this.#isStopped = true;
    const timer = setTimeout(() => this.#controller.abort(), CANCEL_WAIT_MS);
    this.#onceEnded = () => clearTimeout(timer);
    try {
      await this.#stream.cancel();
    } catch {
      this.#controller.abort();
    }
  }

  /** Break the connection. It is restored by itself, and the stream resumes. */
  pullWire() {
    if (!this.isRunning || this.state === "out") return;
    this.#cut();
    this.#wire.takeOut(WIRE_OUT_MS);
    this.#stream.disconnect();
  }

  #options() {
    const onreconnect = () => {
      if (this.state === "streaming") this.#cut(); // the connection was lost, and nobody pulled the wire
      this.#resume();
    };
    return { signal: this.#controller.signal, onreconnect };
  }

  #cut() {
    this.#isCut = true;
    this.measurement.cut(performance.now());
    this.#enter("out");
  }

  /** Read until the end, and return true; or until the reader has to pause, and return false. */
  async #readOnce() {
    for await (const event of this.#stream) {
      this.measurement.add(event, performance.now());
      this.answer.add(event);
      if (event.type === "started") this.started = event.started;
      if (event.type === "finished") {
        this.ending = endingOf(event.finished);
        return true;
      }
      const hasBegun = this.measurement.eventCount > 0;
      if (hasBegun && this.state !== "streaming" && !this.#isCut) this.#enter("streaming");
      // After the pause, the server reports when everything that was missed has been read.
      const isUpToDate = this.#hasLeft ? event.notice?.kind === "NOTICE_KIND_CAUGHT_UP" : hasBegun;
      if (isUpToDate && this.#pauseMs() > 0 && !this.#isCut && !this.#isStopped) return false;
    }
    return true;
  }

  /** Leave the stream for the pause, then resume it to read what was missed. */
  async #leave() {
    this.#hasLeft = true;
    const { streamId, lastSequence } = this.#stream;
    await new Promise((resolve) => setTimeout(resolve, this.#pauseMs()));
    this.#controller.signal.throwIfAborted();
    this.#resume();
    this.#stream = this.#client.resume(streamId, { after: lastSequence, ...this.#options() });
  }

  #resume() {
    // A stream that is resumed has no reports of usage of its own.
    this.#usageTimer ??= setInterval(() => this.#requestUsage(), USAGE_INTERVAL_MS);
    if (!this.#isCut) return;
    this.#isCut = false;
    this.answer.markSeam();
  }

  async #requestUsage() {
    const { streamId } = this.#stream;
    if (!streamId) return;
    const { signal } = this.#controller;
    try {
      const { usage } = await this.#client.getStream(streamId, { signal });
      if (usage && this.isRunning) this.measurement.add({ type: "usage", usage }, performance.now());
    } catch {
      // The stream itself shows the error, if it has one.
    }
  }

  #enter(state) {
    this.state = state;
    this.#onstate(this);
  }

  #end(state) {
    this.#onceEnded();
    clearInterval(this.#usageTimer);
    this.measurement.end(performance.now());
    this.answer.finish();
    this.#enter(state);
  }
}

/** An answer that is waited for until it is whole. `state` is "waiting", "ended" or "failed". */
export class WholeRun {
  state = "waiting";
  ending = "";
  error = null;
  endMs = null;
  #startedAt = performance.now();
  #controller = new AbortController();
  #client;
  #request;
  #onstate;

  constructor({ client, request, container, onstate }) {
    this.answer = new AnswerView(container, { isJson: request.responseFormat !== undefined });
    this.#client = client;
    this.#request = request;
    this.#onstate = onstate;
  }

  get isRunning() {
    return this.state === "waiting";
  }

  get isFailed() {
    return this.state === "failed";
  }

  /** Time since the request was sent, until its end. */
  elapsedMs(now) {
    return this.endMs ?? now - this.#startedAt;
  }

  /** Request the answer. Never rejects: see `error`. */
  async read() {
    try {
      const response = await this.#send();
      for (const event of eventsOf(response)) this.answer.add(event);
      this.ending = endingOf(response.finished ?? {});
      this.state = "ended";
    } catch (error) {
      this.state = "failed";
      this.error = error;
      this.ending = this.#controller.signal.aborted ? "Stopped before there was anything to read" : endingOfError(error);
      if (this.#controller.signal.aborted) this.error = null;
    }
    this.endMs = performance.now() - this.#startedAt;
    this.answer.finish();
    this.#onstate(this);
  }

  stop() {
    this.#controller.abort();
  }

  async #send() {
    const headers = { "content-type": "application/json", accept: "application/json" };
    if (this.#client.key) headers.authorization = `Bearer ${this.#client.key}`;
    const response = await fetch("/v1/chat", {
      method: "POST",
      headers,
      body: JSON.stringify(this.#request),
      cache: "no-store",
      signal: this.#controller.signal,
    });
    if (!response.ok) throw await responseError(response);
    return response.json();
  }
}

function endingOfError(error) {
  return isBlockedRequest(error) ? "Refused by a content filter of the server" : "Failed";
}

/** Return a whole answer as the events of a stream. */
function* eventsOf({ message, finished, jsonResult, invalidToolCalls = [], citations = [] }) {
  for (const [index, part] of (message?.parts ?? []).entries()) {
    if (part.reasoning) yield { type: "reasoning", reasoning: { text: part.reasoning.text, index } };
    else if (part.toolCall) yield { type: "toolCall", toolCall: { toolCall: part.toolCall, index } };
    else yield { type: "text", text: { text: part.text, index } };
  }
  if (jsonResult) {
    const index = (message?.parts ?? []).findIndex(({ text }) => isJson(text));
    if (index >= 0) yield { type: "jsonValue", jsonValue: { valueJson: message.parts[index].text, index } };
    yield { type: "jsonResult", jsonResult };
  }
  for (const invalidToolCall of invalidToolCalls) {
    yield { type: "invalidToolCall", invalidToolCall: { ...invalidToolCall, index: `i${invalidToolCall.index ?? 0}` } };
  }
  for (const citation of citations) yield { type: "citation", citation };
  if (finished) yield { type: "finished", finished };
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
