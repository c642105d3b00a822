/** Several streams on one WebSocket, which is connected again when it breaks. */

import { TokenwireError, connectionLost, invalidResponse, problemError } from "./errors.js";
import { ChatStream, planChat, planResume } from "./stream.js";

/** Size of the events of one stream that wait to be taken, in UTF-16 code units of their frames. */
const MAX_WAITING_LENGTH = 4 * 1024 * 1024;
/** How long connecting may take, with the check of the key. */
const CONNECT_TIMEOUT_MS = 15_000;

/** A WebSocket to the edge. When it breaks, its streams connect again and continue after their cursors. */
export class TokenwireSocket {
  #edge;
  #options;
  #connection;
  #opening;
  #closed;

  /** @param {import("./http.js").Edge} edge */
  constructor(edge, options) {
    this.#edge = edge;
    this.#options = options;
  }

  /** Start a stream. `interrupt` is a stream of this socket that the edge cancels first. */
  chat(request, { interrupt, ...options } = {}) {
    return this.#stream(planChat(request, options), interrupt);
  }

  /** Read a stream after a cursor. */
  resume(streamId, options = {}) {
    return this.#stream(planResume(streamId, options));
  }

  /** Break the connection, as a network failure does. For tests and demonstrations of reconnecting. */
  disconnect() {
    this.#connection?.close(connectionLost("disconnected by the program"));
  }

  /** Close the WebSocket for good. Its streams end with the reason. */
  close(reason = new DOMException("the socket was closed by the program", "AbortError")) {
    this.#closed ??= { reason };
    this.#connection?.close(reason);
  }

  /** Return the open connection. All streams share it, and one attempt to make it. @package */
  async open() {
    if (this.#closed) throw this.#closed.reason;
    if (this.#connection?.isOpen) return this.#connection;
    this.#opening ??= this.#connect().finally(() => (this.#opening = undefined));
    return this.#opening;
  }

  async #connect() {
    const { WebSocket, idleTimeoutMs } = this.#options;
    const key = await this.#edge.currentKey();
    if (this.#closed) throw this.#closed.reason;
    const url = new URL(`${this.#edge.baseUrl}/v1/ws`, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    const connection = new Connection(new WebSocket(url.href, "tokenwire.v1"), key, idleTimeoutMs);
    this.#connection = connection;
    await connection.authenticated;
    return connection;
  }

  #stream({ request, ...plan }, interrupted) {
    const source = new SocketSource(this, this.#edge, request, interrupted);
    const stream = new ChatStream(source, { ...plan, maxAttempts: this.#options.maxAttempts });
    sources.set(stream, source);
    return stream;
  }
}

/** The source of each stream, for `interrupt`. */
const sources = new WeakMap();

/** The events of a stream on a socket. Implements `Source` of stream.js. */
class SocketSource {
  #socket;
  #edge;
  #request;
  #interrupted;
  #connection;
  #id;

  constructor(socket, edge, request, interrupted) {
    this.#socket = socket;
    this.#edge = edge;
    this.#request = request;
    this.#interrupted = interrupted;
  }

  async open({ streamId, after, controller }) {
    const { signal } = controller;
    const connection = await this.#socket.open();
    const interrupt = sources.get(this.#interrupted)?.idOn(connection);
    // It is not open here: it has ended, or it is being connected again.
    if (this.#interrupted && !interrupt) await this.#interrupted.cancel().catch(() => {});
    signal.throwIfAborted();
    const frame = streamId
      ? { type: "resume", streamId, afterSequence: String(after) }
      : { type: "chat", request: this.#request, ...(interrupt && { interrupt }) };
    const inbox = new Inbox();
    const id = connection.start(frame, inbox);
    this.#connection = connection;
    this.#id = id;
    const onabort = () => {
      inbox.end(signal.reason);
      connection.leave(id);
    };
    signal.addEventListener("abort", onabort, { once: true });
    // Unless it has an error, only the edge's `end` frame ends an inbox.
    return { streamId, events: inbox.events(), isAtEnd: true };
  }

  async cancel(streamId) {
    const id = this.idOn(this.#connection);
    if (id) this.#connection.send({ type: "cancel", id });
    else if (streamId) await this.#edge.cancelStream(streamId);
  }

  /** Return the stream's id on a connection. Undefined: it is not open there. */
  idOn(connection) {
    return connection?.isOpen && connection === this.#connection ? this.#id : undefined;
  }
}

/** One WebSocket from its handshake to its end. */
class Connection {
  isOpen = false;
  #socket;
  #key;
  #inboxes = new Map();
  #lastId = 0;
  #lastMessageTime = Date.now();
  #settle;
  #watch;
  #closed;

  constructor(socket, key, idleTimeoutMs) {
    this.#socket = socket;
    this.#key = key;
    /** Resolves once the edge has accepted the key. */
    this.authenticated = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    const late = connectionLost(`no WebSocket within ${CONNECT_TIMEOUT_MS / 1000} s`);
    const timer = setTimeout(() => this.close(late), CONNECT_TIMEOUT_MS);
    this.authenticated.finally(() => clearTimeout(timer)).catch(() => {});
    this.#watch = setInterval(() => this.#checkSilence(idleTimeoutMs), idleTimeoutMs / 3);
    socket.onopen = () => this.send({ type: "authenticate", key: this.#key });
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onerror = () => {}; // `onclose` follows; without a listener, the package ws throws
    socket.onclose = ({ code }) => this.close(connectionLost(`the WebSocket was closed with code ${code}`));
  }

  send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  /** Send the frame that starts a stream. Return the id that the stream has on this connection. */
  start(frame, inbox) {
    if (this.#closed) throw this.#closed.error;
    const id = String((this.#lastId += 1));
    this.#inboxes.set(id, inbox);
    this.send({ ...frame, id });
    return id;
  }

  /** Stop reading a stream here, unless it has ended. Whether it continues is up to its `retention`. */
  leave(id) {
    if (this.#inboxes.delete(id)) this.send({ type: "leave", id });
  }

  /** End the connection and all streams on it. Idempotent. */
  close(error) {
    this.#closed ??= { error };
    this.isOpen = false;
    clearInterval(this.#watch);
    this.#socket.onmessage = this.#socket.onclose = this.#socket.onopen = null;
    this.#socket.close();
    this.#settle.reject(error);
    for (const inbox of this.#inboxes.values()) inbox.end(error);
    this.#inboxes.clear();
  }

  #receive(data) {
    this.#lastMessageTime = Date.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch (error) {
      return this.close(invalidResponse("a frame is not JSON", 0, error));
    }
    const inbox = this.#inboxes.get(frame.id);
    switch (frame.type) {
      case "event":
        if (inbox?.add(frame.event, data.length) === false) this.leave(frame.id);
        return undefined;
      case "end":
      case "error":
        if (inbox) {
          this.#inboxes.delete(frame.id);
          inbox.end(frame.error && problemError(frame.error));
        } else if (!this.isOpen) {
          this.close(problemError(frame.error)); // the key was refused
        }
        return undefined;
      case "ping":
        return this.send({ type: "pong" });
      case "authenticated":
        this.isOpen = true;
        return this.#settle.resolve();
      default:
        return undefined;
    }
  }

  #checkSilence(idleTimeoutMs) {
    const silenceMs = Date.now() - this.#lastMessageTime;
    if (silenceMs >= idleTimeoutMs) this.close(connectionLost(`no data for ${Math.round(silenceMs / 1000)} s`));
    else if (this.isOpen) this.send({ type: "ping" });
  }
}

/** The events of one stream that wait to be taken. A WebSocket cannot be read more slowly, so it is bounded. */
class Inbox {
  #events = [];
  #length = 0;
  #end;
  #wake = () => {};

  /** Add an event. Above the bound, end and return false: the stream can be resumed after the earlier events. */
  add(event, length) {
    this.#length += length;
    if (this.#length > MAX_WAITING_LENGTH) {
      const message = "the program takes events more slowly than they come";
      this.end(new TokenwireError(message, { status: 503, reason: "SLOW_READER" }));
      return false;
    }
    this.#events.push(event);
    this.#wake();
    return true;
  }

  end(error) {
    this.#end ??= { error };
    this.#wake();
  }

  async *events() {
    for (;;) {
      const events = this.#events;
      this.#events = [];
      this.#length = 0;
      yield* events;
      if (this.#events.length > 0) continue;
      if (this.#end?.error) throw this.#end.error;
      if (this.#end) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}
