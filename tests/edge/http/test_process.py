"""The edge as a process: readiness, signals, its address."""

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from raw_http import Response, head, responses
from tokenwire_edge.serving import bind

LONG = "openai/sim?itl_ms=20&tokens=100000"
SHORT = "openai/sim?itl_ms=20&tokens=30"


@contextmanager
def connection(url, sent):
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as opened:
        opened.sendall(sent)
        yield opened


def chat(model):
    body = json.dumps({"model": model, "prompt": "hello"}).encode()
    headers = ("content-type: application/json", f"content-length: {len(body)}")
    return head("/v1/chat/stream", "POST", *headers) + body


def events(response):
    """Name and data of each event of a complete response."""
    found = []
    for block in response.body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def readiness(url):
    with connection(url, head("/readyz", "GET", "connection: close")) as opened:
        [response] = responses(opened)
    return response.status


def wait_until_readiness_is(url, status):
    ends = time.monotonic() + 30
    while readiness(url) != status:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_stop_lets_short_streams_finish_and_ends_long_ones_so_that_they_are_resumed(
    server, start_edge
):
    with (
        start_edge("--target", server, env={"TOKENWIRE_EDGE_SHUTDOWN_GRACE_S": "2"}) as (edge, url),
        connection(url, head()) as idle,
        connection(url, chat(SHORT)) as short,
        connection(url, chat(LONG)) as long,
        long.makefile("rb") as long_file,
        connect(f"{url.replace('http', 'ws')}/v1/ws", subprotocols=["tokenwire.v1"]) as websocket,
    ):
        websocket.send('{"type": "authenticate", "key": ""}')
        for stream, model in (("short", SHORT), ("long", LONG)):
            request = {"model": model, "prompt": "hello"}
            websocket.send(json.dumps({"type": "chat", "id": stream, "request": request}))
        frame = ""
        while '"id":"long"' not in frame:
            frame = websocket.recv(timeout=30)
        long_file.peek(1)
        edge.send_signal(signal.SIGTERM)
        assert [response.status for response in responses(idle)] == [200]
        [answered] = responses(short)
        assert events(answered)[-1][0] == "finished"
        name, error = events(answered := Response(long_file))[-1]
        assert (name, error["status"], error["reason"]) == ("error", 503, "DRAINING")
        assert error["facts"]["stream_id"] == answered.headers["tokenwire-stream-id"]
        assert error["facts"]["last_sequence"] == events(answered)[-2][1]["sequence"]
        ends = []
        with pytest.raises(ConnectionClosedError) as closed:
            while True:
                frame = json.loads(websocket.recv(timeout=30))
                if frame["type"] != "event":
                    ends.append(frame)
        assert closed.value.rcvd.code == 1012
        assert [(end["type"], end["id"]) for end in ends] == [("end", "short"), ("error", "long")]
        assert ends[1]["error"]["reason"] == "DRAINING"
        with pytest.raises(OSError):
            connection(url, b"").__enter__()
        assert edge.wait(10) == 0
        edge.log.seek(0)
        log = edge.log.read()
        assert "path=/v1/chat/stream status=200" in log
        assert "secret" not in log
        assert "ERROR" not in log


def test_readiness_follows_the_server_and_a_second_signal_ends_at_once(
    start, simulator, start_edge
):
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (first, target):
        env = {"TOKENWIRE_EDGE_LOG_LEVEL": "WARNING"}
        with start_edge("--target", target, env=env) as (edge, url):
            assert readiness(url) == 200
            first.terminate()
            first.wait(15)
            wait_until_readiness_is(url, 503)
            edge.log.seek(0)
            lines = edge.log.read().splitlines()
            assert len(lines) == 1  # a request is below log_level
            assert f"{target}: cannot connect to the server: " in lines[0]
            with start("serve", "--listen", target, env=simulator.environ()):
                wait_until_readiness_is(url, 200)
                with connection(url, chat(LONG)) as stream:
                    stream.recv(1)
                    edge.send_signal(signal.SIGTERM)
                    with stream.makefile("rb") as file:
                        while b"DRAINING" not in file.readline():
                            edge.send_signal(signal.SIGTERM)
                            if edge.poll() is not None:
                                break
                    assert edge.wait(10) == 128 + signal.SIGTERM


def test_an_address_without_a_host_means_all_addresses_on_one_port():
    with ExitStack() as opened:
        sockets = [opened.enter_context(each) for each in bind(":0", write_stall_s=1)]
        [port] = {each.getsockname()[1] for each in sockets}
        socket.create_connection(("127.0.0.1", port), timeout=30).close()


def test_a_port_that_is_taken_is_one_line_on_stderr():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        command = Path(sys.executable).parent / "tokenwire-edge"
        completed = subprocess.run(
            [command, "serve", "--listen", address], capture_output=True, text=True, timeout=60
        )
    assert completed.returncode == 1
    assert completed.stdout == ""
    assert (
        completed.stderr == f"tokenwire-edge: cannot listen on {address}: Address already in use\n"
    )
