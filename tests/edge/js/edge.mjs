/** A small edge with one scripted stream, and a proxy that cuts connections. Both are real servers. */

import { once } from "node:events";
import { createServer } from "node:http";
import { connect, createServer as createTcpServer } from "node:net";

export const STREAM_ID = "stream-1";

/** Events of an answer: started, its words, per-reader events in between, finished. */
export function answer(words) {
  const events = [{ sequence: "1", started: { streamId: STREAM_ID, model: "demo" } }];
  for (const word of words) {
    events.push({ sequence: String(events.length + 1), text: { text: word } });
  }
  events.push({ sequence: String(events.length + 1), finished: { reason: "FINISH_REASON_STOP", usage: { outputTokens: "7" } } });
  return events;
}

export function sse(event) {
  const kind = Object.keys(event).find((name) => name !== "sequence");
  return `id: ${event.sequence}\nevent: ${kind}\ndata: ${JSON.stringify(event)}\n\n`;
}

export function problem(response, status, reason, headers = {}) {
  response.writeHead(status, { "content-type": "application/problem+json", ...headers });
  response.end(JSON.stringify({ status, reason, detail: `the detail of ${reason}`, facts: { limit: "x" } }));
}

/** Write what the edge writes to a reader after a cursor. */
export function writeEvents(response, events, after) {
  response.writeHead(200, { "content-type": "text/event-stream", "tokenwire-stream-id": STREAM_ID });
  response.write("retry: 1\n\n: ping\n\n"); // no test waits for the backoff
  for (const event of events) if (Number(event.sequence) > after) response.write(sse(event));
  response.end();
}

/**
 * Start an edge. `handle({method, path, after, body, request, response})` answers; the default one serves
 * `events`. `requests` lists what was asked.
 */
export async function startEdge(t, { events = [], handle } = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    const url = new URL(request.url, "http://edge");
    const asked = {
      method: request.method,
      path: url.pathname,
      after: Number(url.searchParams.get("after") ?? 0),
      key: request.headers.authorization,
      body: text ? JSON.parse(text) : undefined,
    };
    requests.push(asked);
    const answered = await handle?.({ ...asked, request, response, count: requests.length });
    if (answered || response.headersSent) return;
    if (asked.path.endsWith("/cancel")) response.end("{}");
    else writeEvents(response, events, asked.after);
  });
  const port = await listen(t, server);
  t.after(() => server.closeAllConnections());
  return { url: `http://127.0.0.1:${port}`, port, requests, server };
}

/** Start a proxy before a port. `bytes(connection)` says after how many bytes a connection is cut. */
export async function startProxy(t, port, bytes) {
  let count = 0;
  const server = createTcpServer((downstream) => {
    let remaining = bytes((count += 1));
    const upstream = connect(port, "127.0.0.1");
    for (const socket of [upstream, downstream]) socket.on("error", () => {});
    downstream.pipe(upstream);
    upstream.on("data", (data) => {
      downstream.write(data.subarray(0, remaining));
      remaining -= data.length;
      if (remaining < 0) downstream.destroySoon();
    });
    upstream.on("close", () => downstream.destroySoon());
    downstream.on("close", () => upstream.destroy());
  });
  return `http://127.0.0.1:${await listen(t, server)}`;
}

export async function listen(t, server, port = 0) {
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return server.address().port;
}

export async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}
