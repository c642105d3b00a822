"""The edge behind nginx with the configuration in deploy/nginx: streams, cancels, time-outs, several edges."""

import asyncio
import json
import random
import statistics
import time
import urllib.error
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
import websockets
from event_source import Followed, follow
from raw_provider import RawProvider

from nginx_process import running_nginx
from tokenwire_server.simulator import generated_text

PROVIDERS = ["openai", "openai-responses", "anthropic"]
BLOCKING = f"repeat=forever&tokens_per_second=20000&text={'x' * 100}"
"""Fills the buffers on the way to a caller that does not read."""
SCENARIOS = (
    "silent=1",
    "headers_then_silent=1",
    "repeat=forever&itl_ms=3",
    "tokens=5&stall_after=3",
    BLOCKING,
)
WAYS = ("fetch", "websocket")
WAIT_S = 60
"""Bound of waits that take milliseconds on an idle machine."""


@pytest.fixture(scope="module")
def proxied(start_edge):
    """Starts edges behind nginx, with settings for each: a context manager. Yields nginx and the processes of
    the edges.
    """

    @contextmanager
    def run(server, *, edges=1, certificate=None, nginx_settings="", **settings):
        env = {f"TOKENWIRE_EDGE_{name.upper()}": str(value) for name, value in settings.items()}
        with ExitStack() as stack:
            started = [
                stack.enter_context(start_edge("--target", server, env=env)) for _ in range(edges)
            ]
            addresses = [address_of(url) for _, url in started]
            nginx = stack.enter_context(
                running_nginx(addresses, certificate=certificate, settings=nginx_settings)
            )
            yield nginx, [process for process, _ in started]

    return run


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The paths of a certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def nginx(edge, certificate):
    """In front of the edge that all tests share."""
    with running_nginx([address_of(edge)], certificate=certificate) as nginx:
        yield nginx


def address_of(url):
    return urlsplit(url).netloc


async def post(nginx, body):
    """Send a request for a stream on a connection of its own."""
    address = urlsplit(nginx.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/stream HTTP/1.1\r\nhost: {address.netloc}\r\naccept: text/event-stream\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode() + data)
    return reader, writer


async def leave_at_random(nginx, way, model, rng):
    """Start a stream, read it (or not, so that its writes block) for a while, and close the socket.
    Return the time.
    """
    after_s = rng.random() * 0.4
    body = {"model": model, "prompt": "hello"}
    if way == "fetch":
        reader, writer = await post(nginx, body)
        read, transport = reader.read, writer.transport
    else:
        url = nginx.url.replace("http", "ws", 1) + "/v1/ws"
        socket = await websockets.connect(url, subprotocols=["tokenwire.v1"], open_timeout=WAIT_S)
        await socket.send(json.dumps({"type": "authenticate", "key": ""}))
        await socket.send(json.dumps({"type": "chat", "id": "a", "request": body}))
        read, transport = socket.recv, socket.transport

    async def reading():
        with suppress(websockets.ConnectionClosed, ConnectionError):
            while model.find(BLOCKING) < 0 and await read(*([65536] if way == "fetch" else [])):
                pass

    task = asyncio.create_task(reading())
    await asyncio.sleep(after_s)
    left = time.monotonic()
    transport.abort()
    await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), WAIT_S)
    return left


async def leave_many(nginx, simulator, count, at_once, closed_within_s):
    """Return the sorted times from closing the socket until the provider's connection was closed."""
    rng = random.Random(count)
    closing_s = []
    batches = count // at_once
    # Callers that leave before their request reaches the provider do not count: then more try.
    for batch in range(5 * batches):
        if batch >= batches and len(closing_s) > count / 2:
            break
        jobs = {}
        for n in range(at_once):
            key = f"nginx-{count}-{batch}-{n}"
            model = f"{rng.choice(PROVIDERS)}/sim?{rng.choice(SCENARIOS)}&key={key}"
            jobs[key] = leave_at_random(nginx, rng.choice(WAYS), model, rng)
        left = dict(zip(jobs, await asyncio.gather(*jobs.values()), strict=True))
        await asyncio.to_thread(simulator.wait_until_none_open, closed_within_s)
        for key, at in left.items():
            seen = await asyncio.to_thread(request_or_none, simulator, key)
            if seen is not None:
                assert seen["aborted"], seen
                closing_s.append(seen["closed_at"] - at)
    assert len(closing_s) > count / 2
    closing_s.sort()
    p50, p99 = statistics.median(closing_s), closing_s[int(len(closing_s) * 0.99)]
    print(
        f"\n{len(closing_s)} closed sockets: the provider's connection was closed after "
        f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, at most {closing_s[-1] * 1e3:.1f} ms"
    )
    return closing_s


def request_or_none(simulator, key):
    try:
        return simulator.request(key)
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return None


async def test_closed_sockets_leave_no_provider_connection_open(nginx, simulator):
    await leave_many(nginx, simulator, count=60, at_once=20, closed_within_s=10)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_thousand_closed_sockets_leave_no_provider_connection_open(nginx, simulator):
    closing_s = await leave_many(nginx, simulator, count=1000, at_once=50, closed_within_s=1)
    assert closing_s[int(len(closing_s) * 0.99)] <= 1


async def think(nginx, count, silent_s):
    """Start streams whose provider is silent at first. Return their bodies."""

    async def one(number):
        await asyncio.sleep(number / 200)  # not all in the same instant
        model = f"{PROVIDERS[number % 3]}/sim?ttft_ms={silent_s * 1000:g}&tokens=3"
        reader, writer = await post(nginx, {"model": model, "prompt": "hello"})
        try:
            return (await asyncio.wait_for(reader.read(), silent_s + WAIT_S)).decode()
        finally:
            writer.close()

    bodies = await asyncio.gather(*map(one, range(count)))
    cut = [body for body in bodies if "event: finished\n" not in body]
    text = json.dumps("".join(generated_text(3)))
    heartbeats = [body.count(": ping\n") for body in bodies]
    print(
        f"\n{count} streams whose provider was silent for {silent_s:g} s: {len(cut)} were cut, "
        f"{min(heartbeats)} to {max(heartbeats)} heartbeats each"
    )
    assert not cut, cut[0]
    assert all(text_of(body) == json.loads(text) for body in bodies)


def text_of(body):
    """Return the text of an event stream's bytes."""
    lines = (line[6:] for line in body.splitlines() if line.startswith("data: {"))
    return "".join(event["text"]["text"] for event in map(json.loads, lines) if "text" in event)


async def test_silent_streams_outlive_the_time_outs_of_nginx(server, proxied):
    nginx_settings = "proxy_read_timeout 3s; proxy_send_timeout 3s; send_timeout 3s;"
    quick = {"heartbeat_interval_s": 1, "socket_ping_interval_s": 1}
    with proxied(server, nginx_settings=nginx_settings, **quick) as (nginx, _):
        await asyncio.gather(
            think(nginx, count=6, silent_s=5), idle_socket(nginx, 5), whole_answer(nginx, 5)
        )


async def idle_socket(nginx, silent_s):
    """Leave a WebSocket without a stream for a while, then use it."""
    url = nginx.url.replace("http", "ws", 1) + "/v1/ws"
    async with websockets.connect(
        url, subprotocols=["tokenwire.v1"], open_timeout=WAIT_S
    ) as socket:

        async def received(kind):
            async with asyncio.timeout(WAIT_S):
                while (frame := json.loads(await socket.recv()))["type"] != kind:
                    if frame["type"] == "ping":
                        await socket.send(json.dumps({"type": "pong"}))
                    assert frame["type"] != "error", frame

        await socket.send(json.dumps({"type": "authenticate", "key": ""}))
        await received("authenticated")
        until = time.monotonic() + silent_s
        while time.monotonic() < until:
            await received("ping")
            await socket.send(json.dumps({"type": "pong"}))
        request = {"model": "openai/sim?tokens=3", "prompt": "hello"}
        await socket.send(json.dumps({"type": "chat", "id": "a", "request": request}))
        await received("end")


async def whole_answer(nginx, silent_s):
    """Wait for a whole answer, for which nothing can be sent before it is complete."""
    body = {"model": f"openai/sim?ttft_ms={silent_s * 1000:g}&tokens=3", "prompt": "hello"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{nginx.url}/v1/chat", json=body) as answer:
            assert answer.status == 200, await answer.text()


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_thousand_streams_are_silent_for_longer_than_the_time_outs_of_nginx(nginx):
    await think(nginx, count=1000, silent_s=75)


async def test_the_streams_of_an_edge_that_dies_continue_through_another_one(server, proxied):
    tokens = 75
    body = {"model": f"openai/sim?tokens={tokens}&itl_ms=20", "prompt": "hello"}
    shared = {"ticket_secrets": json.dumps(["s" * 32])}
    with proxied(server, edges=2, **shared) as (nginx, edges):
        async with aiohttp.ClientSession() as session:

            async def started():
                async with asyncio.timeout(WAIT_S):
                    while True:
                        async with session.post(
                            f"{nginx.url}/v1/chat/streams", json=body
                        ) as answer:
                            if answer.status == 201:
                                return (await answer.json())["eventsUrl"]
                            # The edge died with this request, which nginx sends to no other edge.
                            problem = await answer.json(content_type="application/problem+json")
                            assert answer.status == 503, problem
                            assert problem["reason"] == "UNAVAILABLE"

            paths = [await started() for _ in range(8)]
            readers = [
                asyncio.create_task(follow(session, nginx.url + path, Followed())) for path in paths
            ]
            await asyncio.sleep(0.5)
            edges[0].kill()
            paths += [await started() for _ in range(4)]
            followed = await asyncio.gather(
                *readers, *(follow(session, nginx.url + path, Followed()) for path in paths[8:])
            )
        assert [each.text for each in followed] == ["".join(generated_text(tokens))] * 12
        assert sum(each.cuts for each in followed) > 0, "the edge that died served no stream"
        assert "/events" in nginx.log()
        assert "ticket" not in nginx.log(), "tickets are secrets, also in logs"


FOLLOW = """
async ([model, count]) => {
  const body = JSON.stringify({ model, prompt: "hello" });
  const options = { method: "POST", headers: { "content-type": "application/json" }, body };
  window.ids = [];
  window.finished = 0;
  window.texts = [];
  for (let n = 0; n < count; n++) {
    const response = await fetch("/v1/chat/streams", options);
    const { streamId, eventsUrl } = await response.json();
    window.ids.push(streamId);
    const source = new EventSource(eventsUrl);
    window.texts.push([]);
    source.addEventListener("text", (event) => window.texts[n].push(JSON.parse(event.data).text.text));
    source.addEventListener("finished", () => {
      window.finished++;
      source.close();
    });
  }
}
"""

RECEIVED = """
(count) => new Promise((resolve) => {
  const check = () => {
    const received = (texts) => texts.length >= count;
    if (window.texts.every(received) || window.finished === window.texts.length) resolve();
    else setTimeout(check, 5);
  };
  check();
})
"""
CANCEL = """
() => Promise.all(window.ids.map((id) => fetch(`/v1/streams/${id}/cancel`, { method: "POST" })))
"""


async def open_page(page, nginx):
    """Open a page of the edge without scripts of its own."""
    await page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    await page.goto(f"{nginx.tls_url}/healthz")


class SteppedProvider:
    """A provider whose next token is sent when the test asks for it."""

    def __init__(self):
        self.texts = asyncio.Queue()

    async def script(self, provider, reader, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        )
        while (text := await self.texts.get()) is not None:
            delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            chunk = {"id": "a", "object": "chat.completion.chunk", "model": "m", "choices": [delta]}
            writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await writer.drain()
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        writer.write(f"data: {json.dumps(chunk | {'choices': [end]})}\n\ndata: [DONE]\n\n".encode())
        await writer.drain()


@pytest.mark.asyncio(loop_scope="session")
async def test_each_event_reaches_a_browser_before_the_next_one_is_sent(
    start, proxied, certificate, page
):
    stepped = SteppedProvider()
    async with RawProvider(stepped.script) as provider:
        env = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": provider.url}
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, server):
            with proxied(server, certificate=certificate) as (nginx, _):
                await open_page(page, nginx)
                await page.evaluate(FOLLOW, ["openai/m", 1])
                for number in range(20):
                    stepped.texts.put_nowait(f"token {number} ")
                    await asyncio.wait_for(page.evaluate(RECEIVED, number + 1), WAIT_S)
                    assert await page.evaluate("window.texts[0].length") == number + 1
                stepped.texts.put_nowait(None)
                await asyncio.wait_for(page.evaluate(RECEIVED, 1000), WAIT_S)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_browser_reads_more_streams_at_once_than_http1_connections(nginx, page):
    await open_page(page, nginx)
    await page.evaluate(FOLLOW, ["openai/sim?repeat=forever&itl_ms=50", 8])
    await asyncio.wait_for(page.evaluate(RECEIVED, 1), WAIT_S)
    await page.evaluate(CANCEL)


FETCH = """
async ([model, count]) => {
  window.aborts = [];
  for (let n = 0; n < count; n++) {
    const abort = new AbortController();
    window.aborts.push(abort);
    const options = {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: model.replace("KEY", n), prompt: "hello" }),
      signal: abort.signal,
    };
    const response = await fetch("/v1/chat/stream", options);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let received = "";
    // The event `started` may come before the provider is called.
    while (!received.includes("event: text")) {
      const { value } = await reader.read();
      received += decoder.decode(value, { stream: true });
    }
  }
}
"""


@pytest.mark.asyncio(loop_scope="session")
async def test_an_aborted_fetch_and_a_closed_page_cancel_over_http2(nginx, simulator, page):
    async def closed(key):
        async with asyncio.timeout(WAIT_S):
            while not (await asyncio.to_thread(simulator.request, key))["aborted"]:
                await asyncio.sleep(0.01)

    await open_page(page, nginx)
    await page.evaluate(FETCH, ["openai/sim?repeat=forever&itl_ms=20&key=http2-KEY", 2])
    await page.evaluate("window.aborts[0].abort()")
    await closed("http2-0")
    assert not simulator.request("http2-1")["aborted"], "the other stream continues"
    await page.goto("about:blank")
    await closed("http2-1")
