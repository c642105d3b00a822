import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import WebSocket, { WebSocketServer } from "ws";

import { Tokenwire } from "../../../server/tokenwire_edge/static/tokenwire.js";
import { answer, collect, listen } from "./edge.mjs";

const EVENTS = answer(["a", "b", "c", "d"]);
const TEXT = "abcd";

/** Start an edge with a WebSocket. `onframe(frame, send, socket)` gets what comes after `authenticate`. */
async function startSocketEdge(t, onframe) {
  const posts = [];
  const http = createServer((request, response) => {
    posts.push(request.url);
    response.end("{}");
  });
  const server = new WebSocketServer({ server: http, path: "/v1/ws", maxPayload: 1 << 26 });
  const frames = [];
  let sockets = 0;
  server.on("connection", (socket) => {
    const number = (sockets += 1);
    const send = (frame) => socket.send(JSON.stringify(frame));
    socket.on("message", (data) => {
      const frame = JSON.parse(data);
      frames.push({ ...frame, socket: number });
      if (frame.type !== "authenticate") onframe?.(frame, send, socket, number);
      else if (frame.key === "good") send({ type: "authenticated" });
      else {
        send({ type: "error", error: { status: 401, reason: "UNAUTHENTICATED", detail: "no" } });
        socket.close(4401);
      }
    });
  });
  const port = await listen(t, http);
  t.after(() => server.clients.forEach((client) => client.terminate()));
  const baseUrl = `http://127.0.0.1:${port}`;
  return { frames, posts, client: (options) => new Tokenwire({ baseUrl, key: "good", WebSocket, ...options }) };
}

function sendEvents(send, id, events) {
  for (const event of events) send({ type: "event", id, event });
}

test("several streams share a socket, and continue after their cursors when it breaks", async (t) => {
  const edge = await startSocketEdge(t, (frame, send, socket, number) => {
    if (number === 1) {
      sendEvents(send, frame.id, EVENTS.slice(0, Number(frame.id) + 1));
      if (frame.id === "3") setTimeout(() => socket.terminate(), 20);
    } else {
      sendEvents(send, frame.id, EVENTS.filter(({ sequence }) => Number(sequence) > Number(frame.afterSequence)));
      send({ type: "end", id: frame.id });
    }
  });
  const socket = await edge.client().connect();
  const streams = [1, 2, 3].map((count) => socket.chat({ model: "demo", prompt: String(count) }));
  const all = await Promise.all(streams.map(collect));
  for (const events of all) assert.deepEqual(events.map(({ sequence }) => sequence), EVENTS.map(({ sequence }) => sequence));
  assert.deepEqual(streams.map(({ text }) => text), [TEXT, TEXT, TEXT]);
  const resumed = edge.frames.filter(({ type }) => type === "resume");
  assert.deepEqual(resumed.map(({ afterSequence }) => afterSequence).sort(), ["2", "3", "4"]);
  assert.deepEqual([...new Set(resumed.map((frame) => frame.socket))], [2], "one new socket for all");
  socket.close();
});

test("a stream can interrupt another one, and cancel names the stream", async (t) => {
  const edge = await startSocketEdge(t, (frame, send) => {
    if (frame.type === "chat") sendEvents(send, frame.id, EVENTS.slice(0, 2));
    const ended = frame.type === "cancel" ? frame.id : frame.interrupt;
    if (!ended) return;
    sendEvents(send, ended, [{ sequence: "3", finished: { reason: "FINISH_REASON_CANCELLED" } }]);
    send({ type: "end", id: ended });
  });
  const socket = await edge.client().connect();
  const first = socket.chat({ model: "demo", prompt: "1" });
  await first[Symbol.asyncIterator]().next();
  const second = socket.chat({ model: "demo", prompt: "2" }, { interrupt: first });
  await second.cancel();
  assert.equal((await second.final()).finished.reason, "FINISH_REASON_CANCELLED");
  const [, chat, follower, cancel] = edge.frames;
  assert.equal(follower.interrupt, chat.id);
  assert.deepEqual([cancel.type, cancel.id], ["cancel", follower.id]);
});

test("a stream that lost its socket is interrupted over HTTP", async (t) => {
  const edge = await startSocketEdge(t, (frame, send, socket, number) => {
    sendEvents(send, frame.id, number === 1 ? EVENTS.slice(0, 2) : EVENTS);
  });
  const socket = await edge.client().connect();
  const first = socket.chat({ model: "demo", prompt: "1" });
  const reading = first[Symbol.asyncIterator]();
  await reading.next();
  socket.disconnect();
  await socket.chat({ model: "demo", prompt: "2" }, { interrupt: first }).final();
  assert.deepEqual(edge.posts, ["/v1/streams/stream-1/cancel"]);
  await reading.return();
  socket.close();
});

test("a stream that starts while its socket breaks starts on the next one", async (t) => {
  const edge = await startSocketEdge(t, (frame, send) => {
    sendEvents(send, frame.id, EVENTS);
    send({ type: "end", id: frame.id });
  });
  const socket = await edge.client().connect();
  const stream = socket.chat({ model: "demo", prompt: "1" });
  socket.disconnect();
  assert.equal((await stream.final()).text, TEXT);
  assert.deepEqual(edge.frames.filter(({ type }) => type === "chat").map((frame) => frame.socket), [2]);
  socket.close();
});

test("leaving a stream cancels it, and leaves the socket to the others", async (t) => {
  const edge = await startSocketEdge(t, (frame, send) => {
    if (frame.type === "chat") sendEvents(send, frame.id, EVENTS.slice(0, 2));
  });
  const socket = await edge.client().connect();
  const controller = new AbortController();
  const stream = socket.chat({ model: "demo", prompt: "1" }, { signal: controller.signal });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(collect(stream), { name: "AbortError" });
  for await (const _ of socket.chat({ model: "demo", prompt: "2" })) break;
  const uncancelled = socket.chat({ model: "demo", prompt: "3" }, { resume: false });
  for await (const _ of uncancelled) break; // as by the end of a connection: the server's policy applies
  while (edge.frames.length < 9) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(edge.frames.map(({ type, id }) => [type, id]), [
    ["authenticate", undefined],
    ["chat", "1"],
    ["cancel", "1"],
    ["leave", "1"],
    ["chat", "2"],
    ["cancel", "2"],
    ["leave", "2"],
    ["chat", "3"],
    ["leave", "3"],
  ]);
});

test("an error ends its stream, and a refused key the socket", async (t) => {
  const edge = await startSocketEdge(t, (frame, send) => {
    send({ type: "error", id: frame.id, error: { status: 404, reason: "UNKNOWN_MODEL", detail: "no" } });
  });
  const socket = await edge.client().connect();
  await assert.rejects(socket.chat({ model: "x", prompt: "1" }).final(), { reason: "UNKNOWN_MODEL", status: 404 });
  await assert.rejects(edge.client({ key: "bad" }).connect(), { reason: "UNAUTHENTICATED" });
  socket.close();
  await assert.rejects(socket.chat({ model: "x", prompt: "1" }).final(), { name: "AbortError" });
});

test("pings are answered, and a silent socket is replaced", async (t) => {
  const edge = await startSocketEdge(t, (frame, send, socket, number) => {
    if (frame.type === "chat") {
      sendEvents(send, frame.id, EVENTS.slice(0, 2));
      send({ type: "ping" });
    } else if (frame.type === "resume") {
      sendEvents(send, frame.id, EVENTS.slice(2));
      send({ type: "end", id: frame.id });
    }
    assert.ok(number < 3);
  });
  const socket = await edge.client({ idleTimeoutMs: 300 }).connect();
  assert.equal((await socket.chat({ model: "demo", prompt: "1" }).final()).text, TEXT);
  const first = new Set(edge.frames.filter((frame) => frame.socket === 1).map(({ type }) => type));
  assert.ok(first.has("pong") && first.has("ping"), "both ways");
  socket.close();
});

test("what waits for a slow program is bounded, and it still gets all", async (t) => {
  const events = answer(Array.from({ length: 256 }, () => "x".repeat(64 * 1024))); // 16 MiB
  let onReceived;
  const received = new Promise((resolve) => (onReceived = resolve));
  const edge = await startSocketEdge(t, (frame, send) => {
    if (frame.type === "pong") return onReceived();
    if (frame.type === "leave") return undefined;
    sendEvents(send, frame.id, events.slice(Number(frame.afterSequence ?? 0)));
    send({ type: "end", id: frame.id });
    return send({ type: "ping" });
  });
  const socket = await edge.client().connect();
  const stream = socket.chat({ model: "demo", prompt: "1" });
  await received;
  assert.equal((await stream.final()).text.length, 256 * 64 * 1024);
  const [resumed] = edge.frames.filter(({ type }) => type === "resume");
  assert.ok(edge.frames.some(({ type, id }) => type === "leave" && id === "1"), "it is not sent twice");
  assert.ok(Number(resumed.afterSequence) < 80, resumed.afterSequence);
  socket.close();
});

test("a socket that cannot be opened is an error", async (t) => {
  const http = createServer((request, response) => response.writeHead(404).end());
  const port = await listen(t, http);
  const client = new Tokenwire({ baseUrl: `http://127.0.0.1:${port}`, key: "good", WebSocket });
  await assert.rejects(client.connect(), { reason: "CONNECTION_LOST" });
  const controller = new AbortController();
  http.on("upgrade", () => controller.abort(new Error("enough"))); // it never answers
  await assert.rejects(client.connect({ signal: controller.signal }), /enough/);
});
