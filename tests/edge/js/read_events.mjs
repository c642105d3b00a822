/** Read an event stream with the package eventsource-parser. Prints a JSON array of [id, event, data]. */

import { EventSourceParserStream } from "eventsource-parser/stream";

const response = await fetch(process.argv[2], { headers: { accept: "text/event-stream" } });
const events = [];
for await (const { id, event, data } of response.body
  .pipeThrough(new TextDecoderStream())
  .pipeThrough(new EventSourceParserStream())) {
  events.push([id, event, data]);
}
console.log(JSON.stringify(events));
