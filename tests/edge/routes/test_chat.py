"""Chats over plain HTTP: a real edge, a real server, and callers and servers that leave."""

import http.client
import json
import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager

import pytest

from server_process import running
from tokenwire_edge.problems import Problem
from tokenwire_edge.relay.formats import negotiate

ENDLESS = "openai/sim?repeat=forever&itl_ms=20"
SHORT = "openai/sim?tokens=3&itl_ms=0"


@contextmanager
def posted(url, path, model, accept="*/*"):
    """A connection on which a chat was requested. It is closed at the end of the block."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    body = json.dumps({"model": model, "prompt": "Hi"})
    headers = {"accept": accept, "content-type": "application/json", "connection": "close"}
    connection.request("POST", path, body, headers)
    try:
        yield connection
    finally:
        connection.close()


def log_of(edge):
    return os.pread(edge.log.fileno(), 1 << 20, 0).decode()


def wait_until(condition):
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_caller_that_leaves_before_the_response_begins_is_no_error_in_the_log(start_edge):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with start_edge("--target", target) as (edge, url):
            for path in ("/v1/chat/stream", "/v1/chat"):
                with posted(url, path, SHORT):
                    time.sleep(0.1)
            wait_until(lambda: log_of(edge).count("method=POST") == 2)
            assert not [line for line in log_of(edge).splitlines() if " INFO " not in line]


def test_a_caller_that_leaves_before_its_whole_answer_cancels_the_generation(edge, simulator):
    with posted(edge, "/v1/chat", ENDLESS):
        wait_until(lambda: simulator.stats()["requests_open"])
    simulator.wait_until_none_open(10)


def test_a_text_that_fails_before_its_first_character_is_an_error_with_a_status(edge):
    with posted(
        edge, "/v1/chat/stream", "openai/sim?status=429&retry_after=30&key=no-text", "text/plain"
    ) as sent:
        response = sent.getresponse()
        problem = json.loads(response.read())
    assert (response.status, problem["reason"]) == (503, "UPSTREAM_RATE_LIMITED")
    assert response.headers["retry-after"] == "30"
    assert problem["facts"]["stream_id"]
    with posted(edge, "/v1/chat/stream", "openai/sim?tokens=0", "text/plain") as sent:
        response = sent.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert response.headers["tokenwire-stream-id"]


def test_a_server_that_is_killed_ends_streams_with_an_error_and_is_used_again_when_it_is_back(
    simulator, start_edge
):
    environ = simulator.environ()
    with ExitStack() as stack:
        server, target = stack.enter_context(
            running("serve", "--listen", "127.0.0.1:0", env=environ)
        )
        edge, url = stack.enter_context(start_edge("--target", target))

        def post(path, model, accept="*/*"):
            return stack.enter_context(posted(url, path, model, accept)).getresponse()

        events, lines, text = (
            post("/v1/chat/stream", ENDLESS, accept)
            for accept in ("text/event-stream", "application/x-ndjson", "text/plain")
        )
        for response in (events, lines, text):
            response.read1()
        server.send_signal(signal.SIGKILL)
        name, data = events.read().decode().split("\n\n")[-2].split("\n")
        assert name == "event: error"
        for problem in (
            json.loads(data.removeprefix("data: ")),
            json.loads(lines.read().splitlines()[-1])["error"],
        ):
            assert (problem["status"], problem["reason"]) == (503, "UNAVAILABLE")
            assert problem["facts"]["stream_id"]
            assert int(problem["facts"]["last_sequence"]) > 1
        with pytest.raises(http.client.IncompleteRead):  # it has no other way to say so
            text.read()
        down = post("/v1/chat", SHORT)
        assert down.status == 503
        assert down.headers["retry-after"]
        stack.enter_context(running("serve", "--listen", target, env=environ))
        assert post("/v1/chat", SHORT).status == 200
        assert " ERROR " not in log_of(edge)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/plain;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("text/*;q=0.5, text/plain", "text/plain; charset=utf-8"),
        ("text/event-stream;q=0, */*;q=0.1", "application/x-ndjson"),
        ("TEXT/PLAIN; charset=utf-8; Q=1", "text/plain; charset=utf-8"),
        ("text/html, application/json", None),
        ("text/plain;q=0", None),
        ("nonsense, text/plain/more, */plain", None),
    ],
)
def test_the_format_is_the_one_that_the_caller_prefers_and_none_is_406(accept, media_type):
    if media_type is None:
        with pytest.raises(Problem) as raised:
            negotiate(accept)
        assert raised.value.status == 406
    else:
        assert negotiate(accept).media_type == media_type
