"""Chromium reads streams through a proxy that cuts its connections."""

import random
import time

import httpx2
import pytest

import tokenwire
from cutting_proxy import cutting_proxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "openai/sim?tokens=100000&itl_ms=10"
CUTS = 20
RANDOM = random.Random(7)
BYTE_COUNTS = [each for _ in range(CUTS // 2) for each in (RANDOM.randrange(900), 3000)]
"""Every other connection lives long enough for an event: after 10 attempts without one, tokenwire.js gives up."""
HEAD_BYTES = 1000
"""More than the head of a response. Chromium's EventSource gives up after a head that was cut."""

CONNECT = """async (isSocket) => {
  const { Tokenwire } = await import("/static/tokenwire.js");
  window.client = isSocket ? await new Tokenwire().connect() : new Tokenwire();
}"""
WITH_TOKENWIRE = """async (model) => {
  const stream = window.client.chat({ model, prompt: "Hi" });
  window.stream = stream;
  window.sequences = [];
  for await (const event of stream) window.sequences.push([event.type, Number(event.sequence)]);
  const { finished } = await stream.final();
  return { text: stream.text, reason: finished.reason, sequences: window.sequences };
}"""

WITH_EVENT_SOURCE = """async (eventsUrl) => {
  const source = new EventSource(eventsUrl);
  const sequences = [];
  let text = "";
  const reason = await new Promise((resolve, reject) => {
    for (const type of ["started", "text", "notice", "usage", "finished"]) {
      source.addEventListener(type, ({ data, lastEventId }) => {
        const event = JSON.parse(data);
        sequences.push([type, Number(lastEventId)]);
        text += event.text?.text ?? "";
        if (type === "finished") resolve(event.finished.reason);
      });
    }
    source.addEventListener("error", (event) => {
      if (event.data) reject(new Error(event.data));
      if (source.readyState === EventSource.CLOSED) reject(new Error("EventSource gave up"));
    });
  });
  source.close();
  return { text, reason, sequences };
}"""


@pytest.fixture(scope="module")
def proxy(edge):
    with cutting_proxy(edge) as proxy:
        yield proxy


@pytest.fixture
def read_with_cuts(page, console_errors, proxy, edge, server):
    """Runs a script while the proxy cuts its connections. Cancels the stream after the last cut."""

    async def read(script, argument, *, is_socket=False, stream_id=None, min_bytes=0):
        await page.goto(f"{proxy.url}/static/icon.svg")  # any document of the edge's origin
        await page.evaluate(CONNECT, is_socket)
        proxy.cut([min_bytes + count for count in BYTE_COUNTS])
        await page.evaluate(f"argument => {{ window.answer = ({script})(argument); }}", argument)
        deadline = time.monotonic() + 80
        while proxy.cuts < CUTS:
            assert time.monotonic() < deadline, f"{proxy.cuts} cuts"
            await page.wait_for_timeout(50)
        await page.wait_for_timeout(500)  # events after the last cut
        stream_id = stream_id or await page.evaluate("window.stream.streamId")
        with tokenwire.Client(server) as client:
            client.cancel(stream_id)
        answer = await page.evaluate("window.answer")
        assert console_errors, "Chromium reports the connections that were cut"
        console_errors.clear()
        accept = {"Accept": "text/plain"}
        whole = httpx2.get(f"{edge}/v1/streams/{stream_id}/events", headers=accept)
        return answer, whole.text

    return read


def check(answer, whole_text):
    assert answer["reason"] == "FINISH_REASON_CANCELLED"
    assert answer["text"] == whole_text
    of_the_log = [
        sequence for kind, sequence in answer["sequences"] if kind not in {"notice", "usage"}
    ]
    assert of_the_log[0] == 1
    assert of_the_log == sorted(set(of_the_log)), "an event came twice, or out of order"


@pytest.mark.parametrize("is_socket", [False, True], ids=["fetch", "WebSocket"])
async def test_tokenwire_js_reads_every_event_once_when_the_wire_is_pulled_20_times(
    read_with_cuts, is_socket
):
    check(*await read_with_cuts(WITH_TOKENWIRE, MODEL, is_socket=is_socket))


async def test_event_source_reads_every_event_once_when_the_wire_is_pulled_20_times(
    read_with_cuts, edge
):
    started = httpx2.post(f"{edge}/v1/chat/streams", json={"model": MODEL, "prompt": "Hi"}).json()
    url, stream_id = started["eventsUrl"], started["streamId"]
    check(*await read_with_cuts(WITH_EVENT_SOURCE, url, stream_id=stream_id, min_bytes=HEAD_BYTES))
