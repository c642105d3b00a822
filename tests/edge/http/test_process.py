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
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from raw_http import Response, head, responses
from tokenwire_edge.serving import bind

LONG = "openai/sim?itl_ms=20&tokens=100000"
CLOSE = "connection: close"
SHORT = "openai/sim?itl_ms=20&tokens=30"


@contextmanager
def connection(url, sent):
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as opened:
        opened.sendall(sent)
        yield opened


def chat(model, *headers):
    body = json.dumps({"model": model, "prompt": "hello"}).encode()
    headers = ("content-type: application/json", f"content-length: {len(body)}", *headers)
    return head("/v1/chat/stream", "POST", *headers) + body


def requested(url, sent):
    """The responses on a connection of their own. The last one has to close it."""
    with connection(url, sent) as opened:
        return responses(opened)


def models(url):
    [response] = requested(url, head("/v1/models", "GET", CLOSE))
    return response


def drain(*, accept_s, grace_s):
    return {
        "TOKENWIRE_EDGE_DRAIN_ACCEPT_S": str(accept_s),
        "TOKENWIRE_EDGE_DRAIN_GRACE_S": str(grace_s),
    }


def events(response):
    """Name and data of each event of a complete response."""
    found = []
    for block in response.body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def readiness(url):
    [response] = requested(url, head("/readyz", "GET", CLOSE))
    return response.status


def wait_until_readiness_is(url, status):
    ends = time.monotonic() + 30
    while readiness(url) != status:
        assert time.monotonic() < ends
        time.sleep(0.05)


def wait_until_it_refuses(url):
    ends = time.monotonic() + 30
    while models(url).status != 503:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_stop_lets_short_streams_finish_and_ends_long_ones_so_that_they_are_resumed(
    server, start_edge
):
    with (
        start_edge("--target", server, env=drain(accept_s=0, grace_s=2)) as (edge, url),
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


def test_a_drain_is_unready_first_then_refuses_and_a_second_signal_ends_it(server, start_edge):
    with (
        start_edge("--target", server, env=drain(accept_s=4, grace_s=600)) as (edge, url),
        connection(url, b"") as unused,
        connection(url, chat(LONG)) as long,
        long.makefile("rb") as long_file,
    ):
        long_file.peek(1)
        edge.send_signal(signal.SIGTERM)
        wait_until_readiness_is(url, 503)
        time.sleep(0.5)  # until uvicorn has noticed the signal
        [answered] = requested(url, chat(SHORT, CLOSE))
        assert (answered.status, events(answered)[-1][0]) == (200, "finished")
        ends = time.monotonic() + 30
        while (refused := models(url)).status != 503:
            assert refused.status == 200
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert refused.problem == (503, "DRAINING")
        assert refused.headers["retry-after"] == "1"
        unused.sendall(chat(SHORT))
        assert [answer.problem for answer in responses(unused)] == [(503, "DRAINING")]
        assert requested(url, head("/healthz", "GET", CLOSE))[0].status == 200
        with pytest.raises(InvalidStatus) as denied:
            connect(f"{url.replace('http', 'ws')}/v1/ws", subprotocols=["tokenwire.v1"])
        assert denied.value.response.status_code == 503
        assert edge.poll() is None
        edge.send_signal(signal.SIGTERM)
        name, error = events(Response(long_file))[-1]
        assert (name, error["reason"]) == ("error", "DRAINING")
        assert edge.wait(30) == 0


def test_a_drain_does_not_wait_for_the_idle_connections_of_probes(server, start_edge):
    with (
        start_edge("--target", server, env=drain(accept_s=0, grace_s=600)) as (edge, url),
        connection(url, chat(LONG)) as long,
        long.makefile("rb") as long_file,
    ):
        long_file.peek(1)
        edge.send_signal(signal.SIGTERM)
        wait_until_it_refuses(url)
        with connection(url, head("/readyz", "GET")) as probe, probe.makefile("rb") as probe_file:
            assert Response(probe_file).status == 503
            long.shutdown(socket.SHUT_RDWR)
            assert edge.wait(30) == 0


def test_ctrl_c_refuses_at_once_and_a_third_signal_ends_the_process(server, start_edge):
    with (
        start_edge("--target", server, env=drain(accept_s=600, grace_s=600)) as (edge, url),
        connection(url, head("/v1/chat", "POST", "content-length: 9", CLOSE)),  # without its body
    ):
        assert models(url).status == 200
        edge.send_signal(signal.SIGINT)
        wait_until_it_refuses(url)
        while edge.poll() is None:  # 2 s until the request is cancelled
            edge.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert edge.wait(10) == 128 + signal.SIGTERM


def test_a_server_that_drains_makes_the_edge_unready_and_its_notice_reaches_readers(
    start, simulator, start_edge
):
    times = {"TOKENWIRE_DRAIN_ACCEPT_S": "0", "TOKENWIRE_DRAIN_GRACE_S": "6"}
    environ = simulator.environ() | times
    with (
        start("serve", "--listen", "127.0.0.1:0", env=environ) as (process, target),
        start_edge("--target", target) as (_, url),
        connection(url, chat(LONG)) as long,
        long.makefile("rb") as long_file,
    ):
        long_file.peek(1)
        process.terminate()
        wait_until_readiness_is(url, 503)
        [refused] = requested(url, chat(SHORT, CLOSE))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.body)["reason"] == "DRAINING"
        found = events(Response(long_file))
        [notice] = [data["notice"] for name, data in found if name == "notice"]
        assert notice["kind"] == "NOTICE_KIND_DRAINING"
        assert 0 < float(notice["delay"].removesuffix("s")) <= 6
        name, error = found[-1]
        assert (name, error["status"], error["reason"]) == ("error", 503, "SERVER_STOPPED")


def test_readiness_follows_the_server(start, simulator, start_edge):
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
