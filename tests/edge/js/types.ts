/** A program that uses all of tokenwire.d.ts. It is checked by the compiler, and not run. */

import { ChatStream, PartialJson, Tokenwire, TokenwireError } from "../../../server/tokenwire_edge/static/tokenwire.js";
import type { ChatRequest, Json, JsonResult, Message, TokenEvent } from "../../../server/tokenwire_edge/static/tokenwire.js";

const client = new Tokenwire({ baseUrl: "https://edge.example", key: async () => "key", fetch, WebSocket });
const { signal } = new AbortController();
const messages: Message[] = [{ role: "ROLE_USER", parts: [{ text: "Hi" }] }];
const request: ChatRequest = { model: "openai/demo", messages, generation: { temperature: 1, topK: "40" } };
const partial = new PartialJson();
const jsonSchema = { name: "plan", schemaJson: "{}", streamValues: true };

function show(event: TokenEvent): string {
  switch (event.type) {
    case "text":
      return event.text.text;
    case "toolCall":
      return event.toolCall.toolCall.argumentsJson;
    case "jsonValue":
      partial.add(event.jsonValue);
      return String(partial.get(event.jsonValue.pointer ?? ""));
    case "jsonResult":
      return event.jsonResult.violations?.[0]?.description ?? "";
    case "finished":
      return event.finished.reason === "FINISH_REASON_STOP" ? "" : event.finished.reason;
    default:
      return "";
  }
}

export async function main(): Promise<void> {
  const onreconnect = (attempt: number, lastSequence: number) => console.log(attempt, lastSequence);
  const stream: ChatStream = client.chat(request, { signal, onreconnect, resume: true });
  try {
    for await (const event of stream) show(event);
    const { message, usage, finished } = await stream.final();
    messages.push(message);
    const { json, jsonResult }: { json?: Json; jsonResult?: JsonResult } = await stream.final();
    console.log(stream.json === json, jsonResult?.isValid, jsonResult?.violations[0]?.pointer.length);
    console.log(stream.text, usage?.outputTokens, finished?.timings?.ttft);
  } catch (error) {
    if (error instanceof TokenwireError && error.reason === "RATE_LIMITED") console.log(error.retryAfterS);
  }
  client.chat({ ...request, responseFormat: { jsonSchema } });
  client.chat({ ...request, responseFormat: { regex: { pattern: "[ab]" } } });
  const socket = await client.connect({ signal });
  const first = socket.chat({ model: "openai/demo", prompt: "Hi" });
  const second = socket.chat(request, { interrupt: first });
  socket.resume(stream.streamId, { after: stream.lastSequence }).disconnect();
  await second.cancel();
  socket.disconnect();
  socket.close();
  await client.resume(stream.streamId, { after: 17, signal }).final();
  await Promise.all([client.models(), client.usage({ day: "x" }), client.countTokens(request, { signal })]);
  await client.getStream(stream.streamId);
  await client.cancelStream(stream.streamId);
  await client.deleteStream(stream.streamId);
  // @ts-expect-error: a stream is made by a client
  new ChatStream();
  // @ts-expect-error: a model is required
  client.chat({ prompt: "Hi" });
}
