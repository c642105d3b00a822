"""Programs that read server-sent events get the same events from a real edge."""

import json
import re
import subprocess

import httpx
import httpx_sse
import pytest

import node

pytestmark = pytest.mark.asyncio(loop_scope="session")

BLANK = '<link rel="icon" href="data:,">'
"""A page of the edge's origin without requests of its own."""

EVENT_SOURCE = """url => new Promise((resolve, reject) => {
  const source = new EventSource(url);
  const events = [];
  for (const type of %s) {
    source.addEventListener(type, ({ lastEventId, data }) => events.push([lastEventId, type, data]));
  }
  // After the end the edge answers 204, and EventSource stops.
  source.onerror = () => source.readyState === EventSource.CLOSED && resolve(events);
})"""


def with_curl(url):
    """The bytes, split as the edge promises them: `id`, `event` and `data`, a line each."""
    completed = subprocess.run(["curl", "-sN", "--max-time", "30", url], capture_output=True)
    event = re.compile(r"^id: (.*)\nevent: (.*)\ndata: (.*)\n\n", re.MULTILINE)
    return [list(fields) for fields in event.findall(completed.stdout.decode())]


def with_httpx_sse(url):
    with httpx.Client(trust_env=False) as client:
        with httpx_sse.connect_sse(client, "GET", url) as source:
            return [[event.id, event.event, event.data] for event in source.iter_sse()]


def with_eventsource_parser(url):
    return json.loads(node.run("node", "read_events.mjs", url))


async def with_event_source(page, edge, url, types):
    await page.route("**/blank", lambda route: route.fulfill(body=BLANK, content_type="text/html"))
    await page.goto(f"{edge}/blank")
    return await page.evaluate(EVENT_SOURCE % json.dumps(sorted(types)), url)


async def test_event_source_curl_httpx_sse_and_eventsource_parser_read_the_same_events(page, edge):
    model = "openai/sim?reasoning=20&tools=2&text=A line\nbreak, ümlauts, 🙂 and \u2028, \u0085 and a tab\t."
    request = {"model": model, "prompt": "Hi"}
    started = httpx.post(f"{edge}/v1/chat/streams", json=request, trust_env=False).json()
    url = edge + started["eventsUrl"]
    with_httpx_sse(
        url
    )  # until it has finished: from now on its events are the same at every reading
    events = with_httpx_sse(url)
    types = {event for _, event, _ in events}
    assert {"started", "reasoning", "text", "tool_call", "finished"} <= types
    assert with_curl(url) == events
    assert with_eventsource_parser(url) == events
    assert await with_event_source(page, edge, url, types) == events
