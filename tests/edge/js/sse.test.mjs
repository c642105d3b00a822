import assert from "node:assert/strict";
import { test } from "node:test";

import { createParser } from "eventsource-parser";

import { EventStreamParser } from "../../../server/tokenwire_edge/static/sse.js";

const RECORDED = [
  '\uFEFFid: 1\nevent: started\ndata: {"sequence":"1","started":{}}\n\n',
  ": ping\n\n",
  'id: 2\r\nevent: text\r\ndata: {"sequence":"2","text":{"text":"naïve 日本 🙂"}}\r\n\r\n',
  "retry: 1500\rdata: first\rdata:second\rdata\r\r",
  "id: a\0b\ndata:  two spaces: and a colon\n\n",
  "event: without data\nid: 3\n\n",
  "data:\n\nunknown: field\nretry: 1s\ndata: x\n\r\n",
  "event: cut\ndata: off at the end\n",
].join("");

const EXPECTED = [
  { id: "1", event: "started", data: '{"sequence":"1","started":{}}' },
  { id: "2", event: "text", data: '{"sequence":"2","text":{"text":"naïve 日本 🙂"}}' },
  { id: "2", event: "message", data: "first\nsecond\n" },
  { id: "2", event: "message", data: " two spaces: and a colon" },
  { id: "3", event: "message", data: "" },
  { id: "3", event: "message", data: "x" },
];

function parse(...chunks) {
  const parser = new EventStreamParser();
  const events = chunks.flatMap((chunk) => parser.feed(chunk));
  return { events, retryMs: parser.retryMs };
}

test("the events are those of the HTML standard, wherever the network splits the bytes", () => {
  const bytes = new TextEncoder().encode(RECORDED);
  const expected = { events: EXPECTED, retryMs: 1500 };
  assert.deepEqual(parse(bytes), expected);
  assert.deepEqual(parse(...Array.from(bytes, (byte) => Uint8Array.of(byte))), expected);
  for (let at = 0; at <= bytes.length; at += 1) {
    assert.deepEqual(parse(bytes.subarray(0, at), bytes.subarray(at)), expected, `split at ${at}`);
  }
});

test("any lines give the events that eventsource-parser gives", () => {
  const pieces = ["data", "id", "event", "retry", ":", " ", "\n", "\n", "\r\n", "\n\n", "é", "🙂", "7", "x"];
  let seed = 1;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2 ** 31; // repeatable
    return Math.floor((seed / 2 ** 31) * below);
  };
  for (let example = 0; example < 2000; example += 1) {
    const body = Array.from({ length: random(60) }, () => pieces[random(pieces.length)]).join("");
    const expected = [];
    const theirs = createParser({
      onEvent: ({ event, data }) => expected.push({ event: event || "message", data }),
    });
    theirs.feed(body);
    const bytes = new TextEncoder().encode(body);
    const at = random(bytes.length + 1);
    const { events } = parse(bytes.subarray(0, at), bytes.subarray(at));
    assert.deepEqual(events.map(({ event, data }) => ({ event, data })), expected, JSON.stringify(body));
  }
});

test("the time is proportional to the bytes, for one long line in small pieces and for many lines in one", () => {
  const piece = new TextEncoder().encode("x".repeat(16));
  const parser = new EventStreamParser();
  parser.feed(new TextEncoder().encode("data: "));
  for (let count = 0; count < 200_000; count += 1) parser.feed(piece);
  const [{ data }] = parser.feed(new TextEncoder().encode("\n\n"));
  assert.equal(data.length, 3_200_000);

  const lines = new TextEncoder().encode("data: x\n\n".repeat(200_000));
  assert.equal(new EventStreamParser().feed(lines).length, 200_000);
});
