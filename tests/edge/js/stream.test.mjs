import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { Tokenwire, TokenwireError } from "../../../server/tokenwire_edge/static/tokenwire.js";
import { STREAM_ID, answer, collect, problem, sse, startEdge, startProxy, writeEvents } from "./edge.mjs";

const WORDS = ["Hello", " ", "wörld", " 🙂", "!"];
const EVENTS = answer(WORDS);
const REQUEST = { model: "demo", prompt: "Hi" };
const HEAD = { "content-type": "text/event-stream", "tokenwire-stream-id": STREAM_ID };

const isPost = ({ path }) => path === "/v1/chat/stream";

test("an answer arrives as events, as text and as a whole", async (t) => {
  const edge = await startEdge(t, { events: EVENTS });
  const stream = new Tokenwire({ baseUrl: `${edge.url}/`, key: async () => "k" }).chat(REQUEST);
  const final = stream.final();
  const events = await collect(stream);
  assert.deepEqual(events.map(({ type }) => type), ["started", ...WORDS.map(() => "text"), "finished"]);
  assert.equal(stream.text, WORDS.join(""));
  assert.equal(stream.streamId, STREAM_ID);
  assert.equal(stream.lastSequence, EVENTS.length);
  const { text, message, usage, finished } = await final;
  assert.equal(text, stream.text);
  assert.deepEqual(message, { role: "ROLE_ASSISTANT", parts: [{ text }] });
  assert.deepEqual([finished.reason, usage], ["FINISH_REASON_STOP", { outputTokens: "7" }]);
  assert.throws(() => stream[Symbol.asyncIterator](), TypeError);
  const [{ key, body }] = edge.requests;
  assert.equal(key, "Bearer k");
  assert.equal(body.retention.onDisconnect, "ON_DISCONNECT_CONTINUE");
  assert.match(body.requestId, /^[0-9a-f]{32}$/);
});

test("the whole answer can be had without a loop, with the parts that a next request needs", async (t) => {
  const toolCall = { id: "c1", name: "weather", argumentsJson: "{}", providerState: "AAA=" };
  const events = [
    { sequence: "1", started: { streamId: STREAM_ID } },
    { sequence: "2", reasoning: { text: "Let me " } },
    { sequence: "3", reasoning: { text: "see.", signature: "sig" } },
    { sequence: "4", toolCallStarted: { index: 2, id: "c1", name: "weather" } },
    { sequence: "6", toolCall: { index: 2, toolCall } },
    { sequence: "7", text: { index: 1, text: "One moment.", providerState: "BBB=" } },
    { sequence: "8", somethingNew: {} },
    { sequence: "9", text: { index: 1 } },
    { sequence: "10", finished: { reason: "FINISH_REASON_TOOL_CALLS" } },
  ];
  const edge = await startEdge(t, { events });
  const final = await new Tokenwire({ baseUrl: edge.url }).chat(REQUEST).final();
  assert.equal(final.text, "One moment.");
  assert.deepEqual(final.toolCalls, [toolCall]);
  assert.equal(final.reasoning, "Let me see.");
  assert.deepEqual(final.message.parts, [
    { reasoning: { text: "Let me see.", signature: "sig" } },
    { text: "One moment.", providerState: "BBB=" },
    { toolCall },
  ]);
});

test("a JSON answer fills in while it is read, also after a broken connection", async (t) => {
  const events = [
    { sequence: "1", started: { streamId: STREAM_ID } },
    { sequence: "2", text: { text: '{"a": [1,' } },
    { sequence: "3", jsonValue: { pointer: "/a/0", valueJson: "1" } },
    { sequence: "4", text: { text: ' 2]}' } },
    { sequence: "5", jsonValue: { pointer: "/a/1", valueJson: "2" } },
    { sequence: "6", jsonValue: { pointer: "/a", isOmitted: true } },
    { sequence: "7", jsonValue: { isOmitted: true } },
    { sequence: "8", jsonResult: { violations: [{ description: "wrong" }, { pointer: "/a", description: "long" }] } },
    { sequence: "9", finished: { reason: "FINISH_REASON_STOP" } },
  ];
  const edge = await startEdge(t, {
    events,
    handle: (asked) => isPost(asked) && (writeEvents(asked.response, events.slice(0, 3), 0) ?? true),
  });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  assert.equal(stream.json, undefined);
  const seen = [];
  for await (const { type } of stream) if (type === "jsonValue") seen.push(JSON.stringify(stream.json));
  assert.deepEqual(seen, ['{"a":[1]}', '{"a":[1,2]}', '{"a":[1,2]}', '{"a":[1,2]}']);
  const { json, jsonResult } = await stream.final();
  assert.deepEqual(json, { a: [1, 2] });
  const violations = [{ pointer: "", description: "wrong" }, { pointer: "/a", description: "long" }];
  assert.deepEqual(jsonResult, { isValid: false, violations });
  assert.deepEqual(edge.requests.map(({ after }) => after), [0, 3]);
});

test("a JSON value that no server sends ends the stream with an error", async (t) => {
  const edge = await startEdge(t, { events: [EVENTS[0], { sequence: "2", jsonValue: { pointer: "/a", valueJson: "{" } }] });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  await assert.rejects(collect(stream), { name: "TokenwireError", reason: "INVALID_RESPONSE", streamId: STREAM_ID });
});

test("a connection that is cut anywhere leaves no gap and no repeat, and starts no second stream", async (t) => {
  const edge = await startEdge(t, { events: EVENTS });
  const whole = 300 + EVENTS.map(sse).join("").length; // about the size of the response with its head
  const cuts = Array.from({ length: whole / 5 }, (_, index) => 5 * index);
  const readOnce = async (cut) => {
    const proxy = await startProxy(t, edge.port, (count) => (count < 3 ? cut : Infinity));
    const stream = new Tokenwire({ baseUrl: proxy }).chat({ ...REQUEST, requestId: `cut-${cut}` });
    const events = await collect(stream);
    assert.deepEqual(events.map(({ sequence }) => sequence), EVENTS.map(({ sequence }) => sequence), `cut at ${cut}`);
    assert.equal(stream.text, WORDS.join(""));
  };
  while (cuts.length) await Promise.all(cuts.splice(0, 100).map(readOnce));
  const posts = edge.requests.filter(isPost);
  assert.ok(posts.every(({ body }) => body.requestId.startsWith("cut-")));
});

test("events that were received are dropped, and those of one reader pass", async (t) => {
  const notice = { sequence: "3", notice: { kind: "NOTICE_KIND_CAUGHT_UP" } };
  const usage = { sequence: "3", usage: { outputTokens: "2" } };
  const edge = await startEdge(t, {
    handle({ path, response }) {
      if (path === "/v1/chat/stream") {
        response.writeHead(200, HEAD);
        for (const event of EVENTS.slice(0, 3)) response.write(sse(event));
        response.write("retry: 1\n\n");
        return response.end();
      }
      response.writeHead(200, HEAD);
      for (const event of [EVENTS[1], EVENTS[2], notice, usage, ...EVENTS.slice(3)]) response.write(sse(event));
      return response.end();
    },
  });
  const attempts = [];
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST, { onreconnect: (...args) => attempts.push(args) });
  const events = await collect(stream);
  const types = ["started", "text", "text", "notice", "usage", "text", "text", "text", "finished"];
  assert.deepEqual(events.map(({ type }) => type), types);
  assert.deepEqual(attempts, [[1, 3]]);
  assert.deepEqual(edge.requests.map(({ method, path, after }) => [method, path, after]), [
    ["POST", "/v1/chat/stream", 0],
    ["GET", `/v1/streams/${STREAM_ID}/events`, 3],
  ]);
});

for (const [name, interrupt, isResumed] of [
  ["SLOW_READER", (response) => response.end(errorEvent(503, "SLOW_READER")), true],
  ["DRAINING", (response) => response.end(errorEvent(503, "DRAINING")), true],
  ["a disconnect by the program", (response, stream) => stream.disconnect(), true],
  ["silence", () => true, true],
  ["UPSTREAM_BROKEN", (response) => response.end(errorEvent(502, "UPSTREAM_BROKEN")), false],
  ["SERVER_STOPPED", (response) => response.end(errorEvent(503, "SERVER_STOPPED")), false],
  ["an event that is not JSON", (response) => response.end("event: text\ndata: {\n\n"), false],
]) {
  test(`${name} ${isResumed ? "is resumed" : "ends the stream"}`, async (t) => {
    let stream;
    const edge = await startEdge(t, {
      events: EVENTS,
      handle(asked) {
        if (!isPost(asked)) return false;
        asked.response.writeHead(200, HEAD);
        asked.response.write(`retry: 1\n\n${EVENTS.slice(0, 4).map(sse).join("")}`);
        setTimeout(() => interrupt(asked.response, stream), 20);
        return true;
      },
    });
    const client = new Tokenwire({ baseUrl: edge.url, idleTimeoutMs: name === "silence" ? 100 : 45_000 });
    stream = client.chat(REQUEST);
    if (isResumed) {
      assert.equal((await stream.final()).text, WORDS.join(""));
      assert.deepEqual(edge.requests.map(({ after }) => after), [0, 4]);
      return;
    }
    const reason = name.startsWith("an event") ? "INVALID_RESPONSE" : name;
    await assert.rejects(collect(stream), { name: "TokenwireError", reason, streamId: STREAM_ID, lastSequence: 4 });
    await assert.rejects(stream.final(), { reason });
    assert.equal(edge.requests.length, 1);
  });
}

function errorEvent(status, reason) {
  return `event: error\ndata: ${JSON.stringify({ status, reason, detail: "it ended" })}\n\n`;
}

test("a refusal is an error with its facts, and is not repeated", async (t) => {
  const violations = [{ field: "generation.temperature", description: "must be at most 2" }];
  const edge = await startEdge(t, {
    handle({ response, body }) {
      if (body.prompt === "busy") return problem(response, 503, "OVERLOADED", { "retry-after": "7" }) ?? true;
      response.writeHead(400, { "content-type": "application/problem+json" });
      return response.end(JSON.stringify({ status: 400, reason: "INVALID_REQUEST", detail: "no", violations }));
    },
  });
  const client = new Tokenwire({ baseUrl: edge.url });
  const error = await client.chat(REQUEST).final().catch((each) => each);
  assert.ok(error instanceof TokenwireError);
  assert.deepEqual([error.status, error.reason, error.message, error.violations], [400, "INVALID_REQUEST", "no", violations]);
  await assert.rejects(client.chat({ ...REQUEST, prompt: "busy" }).final(), {
    status: 503, reason: "OVERLOADED", retryAfterS: 7, facts: { limit: "x" },
  });
  await assert.rejects(client.countTokens(REQUEST), { status: 400, reason: "INVALID_REQUEST" });
  assert.equal(edge.requests.length, 3);
});

test("an edge that is away is waited for, as long as it says, and not forever", async (t) => {
  const times = [];
  const edge = await startEdge(t, {
    events: EVENTS,
    handle(asked) {
      times.push(performance.now());
      if (isPost(asked)) return writeEvents(asked.response, EVENTS.slice(0, 2), 0) ?? true;
      if (asked.count === 2) return problem(asked.response, 503, "STORE_UNAVAILABLE", { "retry-after": "1" }) ?? true;
      if (asked.count === 3) return asked.response.writeHead(502).end("<html>Bad Gateway</html>");
      return false;
    },
  });
  const client = new Tokenwire({ baseUrl: edge.url });
  assert.equal((await client.chat(REQUEST).final()).text, WORDS.join(""));
  assert.ok(times[2] - times[1] >= 990, "Retry-After");

  edge.server.close();
  edge.server.closeAllConnections();
  const attempts = [];
  const gone = new Tokenwire({ baseUrl: edge.url, maxAttempts: 3 });
  const stream = gone.resume(STREAM_ID, { after: 2, onreconnect: (attempt) => attempts.push(attempt) });
  await assert.rejects(stream.final(), { reason: "CONNECTION_LOST", status: 0, lastSequence: 2 });
  assert.deepEqual(attempts, [1, 2, 3]);
});

test("a stream that is read from its end is over at once", async (t) => {
  const edge = await startEdge(t, { handle: ({ response }) => response.writeHead(204).end() });
  const stream = new Tokenwire({ baseUrl: edge.url }).resume("a/b", { after: 7 });
  assert.deepEqual(await collect(stream), []);
  assert.equal((await stream.final()).finished, undefined);
  assert.deepEqual(edge.requests.map(({ path, after }) => [path, after]), [["/v1/streams/a%2Fb/events", 7]]);
});

test("a head that was cut, as Chromium shows it, is not trusted", async (t) => {
  const edge = await startEdge(t, {
    events: EVENTS,
    handle({ response, count }) {
      if (count === 1) response.writeHead(200, { "content-type": "text/ev", "tokenwire-stream-id": "str" }).end();
      else if (count === 2) response.writeHead(200, { ...HEAD, "tokenwire-stream-id": "stre" }).end();
      return count < 3;
    },
  });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  assert.equal((await stream.final()).text, WORDS.join(""));
  assert.equal(stream.streamId, STREAM_ID);
  assert.ok(edge.requests.every(isPost));
  assert.equal(new Set(edge.requests.map(({ body }) => body.requestId)).size, 1);
});

test("the other calls send what the edge expects, with the key of the moment", async (t) => {
  const edge = await startEdge(t, { handle: ({ method, response }) => response.writeHead(method === "DELETE" ? 204 : 200).end("{}") && true });
  const client = new Tokenwire({ baseUrl: edge.url });
  assert.deepEqual(await client.models(), []);
  client.key = "k2";
  await client.usage({ day: "2026-01-31" });
  await client.countTokens(REQUEST);
  await client.getStream("s/1");
  await client.cancelStream("s/1");
  await client.deleteStream("s/1");
  await assert.rejects(client.models({ signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.deepEqual(edge.requests.map(({ method, path, key }) => [method, path, key]), [
    ["GET", "/v1/models", undefined],
    ["GET", "/v1/usage/summary", "Bearer k2"],
    ["POST", "/v1/count", "Bearer k2"],
    ["GET", "/v1/streams/s%2F1", "Bearer k2"],
    ["POST", "/v1/streams/s%2F1/cancel", "Bearer k2"],
    ["DELETE", "/v1/streams/s%2F1", "Bearer k2"],
  ]);
});

test("an abort ends a call whose key never comes", async () => {
  const client = new Tokenwire({ baseUrl: "http://127.0.0.1:9", key: () => new Promise(() => {}), WebSocket: Object });
  for (const call of ["models", "connect"]) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 10);
    await assert.rejects(client[call]({ signal: controller.signal }), /enough/);
  }
});

test("a response of something else than an edge is named", async (t) => {
  const edge = await startEdge(t, {
    handle: ({ response }) => response.writeHead(200, { "content-type": "text/html" }).end("<html>"),
  });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  await assert.rejects(stream.final(), { reason: "INVALID_RESPONSE", status: 200 });
});

for (const retention of [undefined, { onDisconnect: "ON_DISCONNECT_CONTINUE" }, { onDisconnect: "ON_DISCONNECT_CANCEL" }]) {
  const policy = retention ? retention.onDisconnect.slice(14) : "no retention";
  for (const way of ["break", "abort", "abort before the head"]) {
    test(`${way}, ${policy}: the connection is closed, and the generation is cancelled if it is the client's`, async (t) => {
      let onCancel;
      const cancelled = new Promise((resolve) => (onCancel = resolve));
      let closed;
      const controller = new AbortController();
      const { signal } = controller;
      const edge = await startEdge(t, {
        handle(asked) {
          if (!isPost(asked)) return onCancel(asked.path);
          closed = once(asked.response, "close");
          const head = () => asked.response.writeHead(200, HEAD).write(sse(EVENTS[0]));
          if (way !== "abort before the head") return head();
          setTimeout(head, 50);
          controller.abort(new Error("enough"));
          return true;
        },
      });
      const stream = new Tokenwire({ baseUrl: edge.url }).chat(retention ? { ...REQUEST, retention } : REQUEST, { signal });
      const reading = (async () => {
        for await (const _ of stream) {
          if (way === "break") break;
          controller.abort(new Error("enough"));
        }
      })();
      if (way === "break") await reading;
      else await assert.rejects(reading, /enough/);
      await assert.rejects(stream.final());
      await closed;
      if (!retention) assert.equal(await cancelled, `/v1/streams/${STREAM_ID}/cancel`);
      else assert.equal(edge.requests.length, 1);
    });
  }
}

test("cancel stops the generation, and its stream ends with finished", async (t) => {
  let respond;
  const edge = await startEdge(t, {
    handle(asked) {
      if (isPost(asked)) {
        respond = asked.response;
        return respond.writeHead(200, HEAD).write(sse(EVENTS[0]));
      }
      respond.end(sse({ sequence: "2", finished: { reason: "FINISH_REASON_CANCELLED" } }));
      return asked.response.end("{}");
    },
  });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  await stream.cancel(); // before the head has come
  assert.equal((await stream.final()).finished.reason, "FINISH_REASON_CANCELLED");
});

test("a signal that is aborted before, or while the edge is away, ends the stream at once", async (t) => {
  const edge = await startEdge(t, { handle: ({ response }) => response.destroy() });
  const client = new Tokenwire({ baseUrl: edge.url });
  await assert.rejects(client.chat(REQUEST, { signal: AbortSignal.abort() }).final(), { name: "AbortError" });
  assert.equal(edge.requests.length, 0);
  const controller = new AbortController();
  const reading = client.resume(STREAM_ID, { signal: controller.signal, onreconnect: () => controller.abort() }).final();
  await assert.rejects(reading, { name: "AbortError" });
});

test("a stream that is not read is not buffered", async (t) => {
  const big = answer(Array.from({ length: 400 }, () => "x".repeat(64 * 1024))); // 25 MiB
  let written = 0;
  const edge = await startEdge(t, {
    async handle({ response }) {
      response.writeHead(200, HEAD);
      for (const event of big) {
        written += 1;
        if (!response.write(sse(event))) await once(response, "drain");
      }
      return response.end();
    },
  });
  const stream = new Tokenwire({ baseUrl: edge.url }).chat(REQUEST);
  let before = -1;
  while (before !== written || !written) {
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.ok(written < 300, `${written} of ${big.length} events were accepted unread`);
  assert.equal((await stream.final()).text.length, 400 * 64 * 1024);
});

test("a connection serves the next request after a stream has finished", async (t) => {
  const edge = await startEdge(t, { events: EVENTS });
  const client = new Tokenwire({ baseUrl: edge.url });
  let connections = 0;
  edge.server.on("connection", () => (connections += 1));
  for (let count = 0; count < 3; count += 1) {
    await client.chat(REQUEST).final();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.equal(connections, 1);
});
