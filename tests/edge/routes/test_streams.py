"""Streams that outlive their request, tickets, and EventSource: two real edges, a real server."""

import http.client
import itertools
import json
import os
import random
import time
from typing import NamedTuple

import pytest
from tenants_support import keys

from server_process import running
from tokenwire_edge.tickets import Tickets
from tokenwire_server.simulator import generated_text

SECRET, NEXT_SECRET = (
    "the secret of both edges, 32 or more",
    "another one, for the future: 32 or more",
)
UNKNOWN = "0" * 32
TOKENS = 150
SHORT = "openai/sim?tokens=5&itl_ms=0"
LONG = f"openai/sim?tokens={TOKENS}&itl_ms=4"
ENDLESS = "openai/sim?repeat=forever&itl_ms=20"


class Seen(NamedTuple):
    """An event that EventSource dispatches."""

    kind: str
    data: dict
    last_event_id: str


class EventSource:
    """Reads and reconnects as in the HTML standard: with the URL and the last id alone."""

    def __init__(self, path):
        self.path = path
        self.last_event_id = ""
        self.events = []
        self.retry_ms = []
        self.connection_count = 0

    def connect(self, edge, cut_after=None):
        """Read one response, to its end or up to so many bytes. Return its status."""
        self.connection_count += 1
        connection = edge.connection()
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self.last_event_id:
            headers["last-event-id"] = self.last_event_id
        connection.request("GET", self.path, headers=headers)
        response = connection.getresponse()
        if response.status == 200:
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["x-accel-buffering"] == "no"
            body = b""
            while piece := response.read1(65536 if cut_after is None else cut_after - len(body)):
                body += piece
            self._take(body.decode())
        connection.close()
        return response.status

    def _take(self, text):
        *blocks, _incomplete = text.split("\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
            if "retry" in fields:
                self.retry_ms.append(int(fields["retry"]))
            self.last_event_id = fields.get("id", self.last_event_id)
            if "data" in fields:
                data = json.loads(fields["data"])
                self.events.append(Seen(fields["event"], data, self.last_event_id))

    def text(self):
        return "".join(e.data["text"].get("text", "") for e in self.events if e.kind == "text")


class Edge:
    """Sends requests with the key of a caller."""

    def __init__(self, process, url):
        self.process = process
        self.address = url.removeprefix("http://")

    def connection(self):
        return http.client.HTTPConnection(self.address, timeout=20)

    def request(self, verb, path, body=None, *, key=None, headers=()):
        """Return the status, the headers and the body, as JSON if it is that."""
        headers = dict(headers) | ({"authorization": f"Bearer {key}"} if key else {})
        if body is not None:
            headers["content-type"] = "application/json"
        connection = self.connection()
        connection.request(verb, path, body and json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.headers.get_content_type() in ("application/json", "application/problem+json"):
            content = json.loads(content)
        return response.status, response.headers, content

    def refused(self, verb, path, body=None, **how):
        """Return the status, the reason and the fields of the violations of a refusal."""
        status, headers, problem = self.request(verb, path, body, **how)
        assert headers["content-type"] == "application/problem+json"
        return status, problem["reason"], [e["field"] for e in problem.get("violations", ())]

    def log(self):
        return os.pread(self.process.log.fileno(), 1 << 24, 0).decode()


class Service:
    """Two edges that share the secret of their tickets, and a server with two tenants."""

    def __init__(self, edges, acme, globex):
        self.edges = edges
        self.edge = edges[0]
        self.acme = acme
        self.globex = globex

    def start(self, model, edge=None, **fields):
        """Start a stream of acme. Return what its caller gets."""
        body = {"model": model, "prompt": "Hi"} | fields
        status, headers, answer = (edge or self.edge).request(
            "POST", "/v1/chat/streams", body, key=self.acme
        )
        assert status == 201
        assert headers["location"] == f"/v1/streams/{answer['streamId']}"
        assert headers["cache-control"] == "no-store"
        return answer

    def ended(self, model, **fields):
        """Start a stream and read it to its end. Return its id, and what was read."""
        source = EventSource(self.start(model, **fields)["eventsUrl"])
        assert source.connect(self.edge) == 200
        return source.path.split("/")[3], source

    def finish_reason(self, stream_id):
        """Wait for the end of a stream without reading it."""
        deadline = time.monotonic() + 20
        while True:
            info = self.edge.request("GET", f"/v1/streams/{stream_id}", key=self.acme)[2]
            if info["state"] != "STREAM_STATE_RUNNING":
                return info["finishReason"]
            assert time.monotonic() < deadline, "it is still running"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def service(simulator, tmp_path_factory, start_edge):
    database = f"sqlite:///{tmp_path_factory.mktemp('keys')}/keys.db"
    acme, globex = (keys("create", "--tenant", t, database=database) for t in ("acme", "globex"))
    server_env = simulator.environ() | {"TOKENWIRE_DATABASE": database}
    first = {"TOKENWIRE_EDGE_TICKET_SECRETS": json.dumps([SECRET])}
    second = {
        "TOKENWIRE_EDGE_TICKET_SECRETS": json.dumps([NEXT_SECRET, SECRET]),
        "TOKENWIRE_EDGE_LINGER_S": "0.3",
    }
    with (
        running("serve", "--listen", "127.0.0.1:0", env=server_env) as (_, server),
        start_edge("--target", server, env=first) as one,
        start_edge("--target", server, env=second) as other,
    ):
        yield Service([Edge(*one), Edge(*other)], acme, globex)


def test_an_event_source_that_is_cut_anywhere_gets_every_event_once_from_any_edge(service):
    source = EventSource(service.start(LONG)["eventsUrl"])
    rng = random.Random(7)
    for edge in itertools.cycle(service.edges):
        last = source.events[-1:]
        if last and last[0].kind == "finished":
            break
        source.connect(edge, cut_after=rng.choice([1, 20, 60, 200, 700, 2000, 9000]))
    assert source.connection_count > 5
    assert source.text() == "".join(generated_text(TOKENS))
    notices = [event for event in source.events if event.kind == "notice"]
    assert {event.data["notice"]["kind"] for event in notices} == {"NOTICE_KIND_CAUGHT_UP"}
    entries = [event for event in source.events if event.kind != "notice"]
    sequences = [int(event.last_event_id) for event in entries]
    assert sequences == sorted(set(sequences))
    assert [event.data["sequence"] for event in entries] == [e.last_event_id for e in entries]
    assert set(source.retry_ms) == {1000}
    before = len(source.events)
    assert [source.connect(edge) for edge in service.edges] == [204, 204]
    assert len(source.events) == before


def test_the_last_event_id_takes_precedence_over_the_position_in_the_url(service):
    stream_id, source = service.ended(SHORT)
    last = int(source.last_event_id)
    path = f"/v1/streams/{stream_id}/events?after="
    for header, after, rest in [
        (None, last - 1, 1),
        (last - 1, 0, 1),
        ("", last - 1, 1),
        (1, last, 2),
    ]:
        headers = {} if header is None else {"last-event-id": str(header)}
        headers["accept"] = "application/x-ndjson"
        status, _, lines = service.edge.request(
            "GET", f"{path}{after}", key=service.acme, headers=headers
        )
        assert (status, lines.count(b"\n") >= rest, b'"finished"' in lines) == (200, True, True)
        assert (b'"text"' in lines) == (header == 1)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/plain"])
def test_a_stream_is_read_in_the_other_formats_too_and_its_end_is_an_empty_204(service, accept):
    stream_id, source = service.ended(SHORT)
    path = f"/v1/streams/{stream_id}/events"
    how = {"key": service.acme, "headers": {"accept": accept}}
    status, headers, content = service.edge.request("GET", path, **how)
    assert (status, headers["content-type"].split(";")[0]) == (200, accept)
    if accept == "text/plain":
        assert content.decode() == source.text()
    else:
        events = [json.loads(line) for line in content.splitlines()]
        assert events[-1] == source.events[-1].data
    status, _, content = service.edge.request("GET", f"{path}?after={source.last_event_id}", **how)
    assert (status, content) == (204, b"")


def test_a_failed_stream_ends_with_its_error_and_then_stops_the_event_source_with_it(service):
    stream_id, source = service.ended("openai/sim?tokens=9&drop_after=4&itl_ms=1")
    *_, last, error = source.events
    assert error.kind == "error"
    assert (error.data["status"], error.data["reason"]) == (502, "UPSTREAM_BROKEN")
    assert error.data["facts"]["last_sequence"] == last.last_event_id == source.last_event_id
    assert source.connect(service.edge) == 502
    status, _, problem = service.edge.request(
        "GET", f"/v1/streams/{stream_id}/events?after={source.last_event_id}", key=service.acme
    )
    assert (status, problem) == (502, error.data)


def test_a_started_stream_continues_without_a_reader_for_its_linger(service):
    assert service.finish_reason(service.start(LONG)["streamId"]) == "FINISH_REASON_STOP"
    short_linger = service.start(ENDLESS, edge=service.edges[1])
    own_linger = service.start(ENDLESS, retention={"linger": "0.2s"})
    for started in (short_linger, own_linger):
        assert service.finish_reason(started["streamId"]) == "FINISH_REASON_CANCELLED"


def test_a_stream_that_would_end_with_its_first_request_is_refused(service):
    retention = {"onDisconnect": "ON_DISCONNECT_CANCEL"}
    body = {"model": SHORT, "prompt": "Hi", "retention": retention}
    refusal = service.edge.refused("POST", "/v1/chat/streams", body, key=service.acme)
    assert refusal == (400, "INVALID_REQUEST", ["retention.on_disconnect"])
    for path, violation in [("/v1/chat/streams?x=1", "x"), ("/v1/chat/streams", "model")]:
        body = {"model": "", "prompt": "Hi"}
        refusal = service.edge.refused("POST", path, body, key=service.acme)
        assert refusal == (400, "INVALID_REQUEST", [violation])
    body = {"model": SHORT, "prompt": "Hi"}
    assert service.edge.refused("POST", "/v1/chat/streams", body)[:2] == (401, "UNAUTHENTICATED")


def test_a_stream_of_another_tenant_gets_the_answer_of_one_that_does_not_exist(service):
    stream_id, _ = service.ended(SHORT)
    for verb, path in [("GET", "events"), ("POST", "ticket")]:
        answers = [
            service.edge.request(verb, f"/v1/streams/{id}/{path}", key=service.globex)
            for id in (stream_id, UNKNOWN)
        ]
        contents = [(status, content) for status, _, content in answers]
        assert contents[0] == contents[1]
        assert (contents[0][0], contents[0][1]["reason"]) == (404, "STREAM_NOT_FOUND")


def test_a_ticket_reads_its_stream_alone_and_only_while_it_is_valid(service):
    stream_id, _ = service.ended(SHORT)
    other, _ = service.ended(SHORT)
    status, _, made = service.edge.request(
        "POST", f"/v1/streams/{stream_id}/ticket", key=service.acme
    )
    assert (status, made["streamId"]) == (200, stream_id)
    expires_in_s = time.mktime(time.strptime(made["ticketExpireTime"], "%Y-%m-%dT%H:%M:%SZ"))
    assert 0 < expires_in_s - time.mktime(time.gmtime()) <= 600
    assert EventSource(made["eventsUrl"]).connect(service.edges[1]) == 200
    bearer = f"Bearer {service.acme}"
    expired = Tickets([SECRET], ttl_s=600, clock=lambda: time.time() - 601)
    forged = Tickets(["x" * 32], ttl_s=600, clock=time.time)
    path = f"/v1/streams/{stream_id}/events?ticket="
    for text, reason in {
        expired.issue(stream_id, bearer).text: "TICKET_EXPIRED",
        forged.issue(stream_id, bearer).text: "TICKET_INVALID",
        Tickets([SECRET], ttl_s=600, clock=time.time).issue(other, bearer).text: "TICKET_INVALID",
        made["ticket"][:-9]: "TICKET_INVALID",
        "": "TICKET_INVALID",
        "%C3%A9%00": "TICKET_INVALID",
        "A" * 8000: "TICKET_INVALID",
    }.items():
        # The key in the header does not replace the ticket.
        assert service.edge.refused("GET", path + text, key=service.acme)[:2] == (401, reason)
    for path in ("events", "ticket"):
        verb = "GET" if path == "events" else "POST"
        refusal = service.edge.refused(verb, f"/v1/streams/{stream_id}/{path}")
        assert refusal[:2] == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("last_event_id", "query", "violation"),
    [
        *[(text, "", "Last-Event-ID") for text in ("-1", "+1", "1.0", "x", "1,2", "0x1", "²", "é")],
        (str(2**63), "", "Last-Event-ID"),
        ("9" * 4000, "", "Last-Event-ID"),
        ("x", "?after=1", "Last-Event-ID"),
        *[(None, f"?after={text}", "after") for text in ("", "-1", "%C2%B2", "1%00", 2**64)],
        (None, "?after=1&after=1", "after"),
        (None, "?lastEventId=1", "lastEventId"),
    ],
)
def test_an_invalid_position_is_refused_with_the_name_of_its_parameter(
    service, last_event_id, query, violation
):
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    path = f"/v1/streams/{UNKNOWN}/events{query}"
    refusal = service.edge.refused("GET", path, key=service.acme, headers=headers)
    assert refusal == (400, "INVALID_REQUEST", [violation])


def test_a_position_beyond_the_newest_event_is_refused(service):
    stream_id, source = service.ended(SHORT)
    for position in (int(source.last_event_id) + 1, 2**63 - 1):
        refusal = service.edge.refused(
            "GET", f"/v1/streams/{stream_id}/events?after={position}", key=service.acme
        )
        assert refusal[:2] == (416, "RESUME_POINT_AHEAD")


def test_neither_a_url_nor_the_log_of_an_edge_shows_a_key_or_a_ticket(service):
    started = service.start(SHORT)
    source = EventSource(started["eventsUrl"])
    assert [source.connect(service.edge) for _ in range(2)] == [200, 204]
    service.edge.refused("GET", started["eventsUrl"] + "x")
    log = service.edge.log()
    assert f"/v1/streams/{started['streamId']}/events" in log
    assert service.acme not in json.dumps(started)
    for secret in (service.acme, SECRET, started["ticket"]):
        assert secret not in log
