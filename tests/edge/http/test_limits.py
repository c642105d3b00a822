"""Bodies whose parts the test hands over one by one, and bodies through a whole application."""

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import ClientDisconnect, Request

from raw_http import head, responses, serving
from tokenwire_edge.app import create_app
from tokenwire_edge.http.limits import RequestBodies, read_body
from tokenwire_edge.problems import Problem
from tokenwire_edge.settings import Settings


class Sender:
    """A caller that sends the parts of its body, and then what `more` says."""

    def __init__(self, *parts, more=False):
        self._messages = [
            {"type": "http.request", "body": part, "more_body": more or number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        self.parts_read = 0

    async def receive(self):
        if self.parts_read == len(self._messages):
            await asyncio.Event().wait()
        self.parts_read += 1
        return self._messages[self.parts_read - 1]


def request(bodies, sender, headers=()):
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"} | dict(headers)
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    app = SimpleNamespace(state=SimpleNamespace(bodies=bodies))
    return Request({"type": "http", "headers": raw, "app": app}, sender.receive)


def limits(**settings):
    return RequestBodies(Settings(**settings))


async def refused(bodies, sender, **headers):
    with pytest.raises(Problem) as caught:
        await read_body(
            request(bodies, sender, {n.replace("_", "-"): v for n, v in headers.items()})
        )
    assert bodies.bytes_held == 0
    return caught.value


async def test_a_body_is_returned_whole_however_it_was_split():
    bodies = limits()
    assert await read_body(request(bodies, Sender(b'{"a"', b"", b":1}"))) == b'{"a":1}'
    assert bodies.bytes_held == 0


async def test_a_request_without_a_body_needs_no_content_type():
    assert (
        await read_body(
            request(limits(), Sender(b""), {"content-type": None, "transfer-encoding": None})
        )
        == b""
    )


async def test_a_content_length_over_the_limit_is_refused_before_anything_is_read():
    sender = Sender(b"{}")
    problem = await refused(
        limits(max_request_bytes=1024), sender, content_length="1025", transfer_encoding=None
    )
    assert (problem.status, problem.reason) == (413, "BODY_TOO_LARGE")
    assert problem.facts == {"allowed": "1024"}
    assert sender.parts_read == 0


async def test_a_chunked_body_is_refused_at_the_part_that_exceeds_the_limit():
    sender = Sender(b"x" * 1000, b"x" * 24, b"x", b"x" * 1000)
    problem = await refused(limits(max_request_bytes=1024), sender)
    assert problem.status == 413
    assert sender.parts_read == 3


async def test_a_body_that_stops_arriving_is_refused_with_408():
    problem = await refused(limits(body_timeout_s=0.01), Sender(b"{", more=True))
    assert (problem.status, problem.reason) == (408, "REQUEST_TIMEOUT")


async def test_all_bodies_together_are_bounded_and_release_their_share():
    bodies = limits(max_body_bytes_held=1024)
    first = asyncio.create_task(read_body(request(bodies, Sender(b"x" * 1000, more=True))))
    while not bodies.bytes_held:
        await asyncio.sleep(0)
    with pytest.raises(Problem) as caught:
        await read_body(request(bodies, Sender(b"x" * 25)))
    assert (caught.value.status, caught.value.reason) == (503, "OVERLOADED")
    assert caught.value.headers()["retry-after"] == "1"
    assert bodies.bytes_held == 1000
    first.cancel()
    await asyncio.wait([first])
    assert len(await read_body(request(bodies, Sender(b"x" * 1024)))) == 1024


async def test_a_caller_that_leaves_releases_its_share():
    bodies = limits()
    sender = Sender(b"x" * 1000, more=True)
    sender._messages.append({"type": "http.disconnect"})
    with pytest.raises(ClientDisconnect):
        await read_body(request(bodies, sender))
    assert bodies.bytes_held == 0


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'],
)
async def test_json_in_utf8_is_accepted(content_type):
    assert (
        await read_body(request(limits(), Sender(b"{}"), {"content-type": content_type})) == b"{}"
    )


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("content_type", None, "application/json"),
        ("content_type", "text/plain", "application/json"),
        ("content_type", "application/x-www-form-urlencoded", "application/json"),
        ("content_type", "application/json; charset=latin-1", "application/json"),
        ("content_encoding", "gzip", "identity"),
    ],
)
async def test_any_other_type_or_coding_is_refused_unread_with_what_is_accepted(
    name, value, accepted
):
    sender = Sender(b"{}")
    problem = await refused(limits(), sender, **{name: value})
    assert (problem.status, problem.facts) == (415, {"accepted": accepted})
    assert sender.parts_read == 0


# Through the whole application


@pytest.fixture(scope="module")
def edge():
    settings = {"max_request_bytes": 4096, "body_timeout_s": 0.2}
    with serving(create_app(Settings(**settings)), **settings) as edge:
        yield edge


JSON = "content-type: application/json"
CHUNKED = "transfer-encoding: chunked"


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        ((JSON, "content-length: 4097", "expect: 100-continue"), b"", (413, "BODY_TOO_LARGE")),
        ((JSON, CHUNKED), b"2000\r\n" + bytes(8192), (413, "BODY_TOO_LARGE")),
        (("content-length: 4096",), b"", (415, "UNSUPPORTED_MEDIA_TYPE")),
        ((JSON, CHUNKED, "content-encoding: br"), b"", (415, "UNSUPPORTED_MEDIA_TYPE")),
        ((JSON, "content-length: 2"), b"{", (408, "REQUEST_TIMEOUT")),
    ],
    ids=["length", "chunked", "type", "coding", "slow"],
)
def test_a_body_is_refused_before_its_end_with_a_problem_that_closes_the_connection(
    edge, headers, body, problem
):
    with edge.connection(head("/v1/chat", "POST", *headers) + body) as connection:
        [response] = responses(connection)
    assert response.problem == problem
