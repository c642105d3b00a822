"""The simulator's HTTP/1.1 implementation, on a plain socket."""

import asyncio

import msgspec
import pytest

from tokenwire_server.simulator import Stats, generated_text

BODY = b'{"model":"sim?tokens=2","messages":[{"role":"user","content":"x"}],"stream":true}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


async def get(wire, path):
    wire.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    status, _, body = await wire.answer()
    return status, msgspec.json.decode(body)


async def test_a_connection_serves_several_requests_in_sequence(local, wire):
    for _ in range(5):
        await wire.chat("sim?tokens=3")
        assert (await wire.answer())[0] == 200
    stats = local.stats()
    assert (stats.connections_total, stats.requests_total) == (1, 5)
    assert (stats.requests_open, stats.requests_aborted) == (0, 0)


async def test_a_request_may_be_split_anywhere(wire):
    for cut in range(1, len(REQUEST), 7):
        wire.writer.write(REQUEST[:cut])
        await wire.writer.drain()
        await asyncio.sleep(0)
        wire.writer.write(REQUEST[cut:])
        status, _, body = await wire.answer()
        assert (status, body[-14:]) == (200, b"data: [DONE]\n\n")


async def test_pipelined_requests_are_answered_in_order(wire):
    wire.writer.write(REQUEST * 5)
    for _ in range(5):
        assert (await wire.answer())[0] == 200


async def test_a_client_that_floods_during_an_answer_is_disconnected(local, wire, eventually):
    await wire.chat("sim?silent=1")
    await eventually(lambda: local.stats().requests_open == 1)
    wire.writer.write(b"x" * 200_000)
    await eventually(lambda: local.stats().connections_open == 0)


async def test_a_connection_closes_if_the_client_requests_it(wire):
    await wire.ask("/v1/messages", {}, headers=["connection: close"])
    status, headers, _ = await wire.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert await wire.reader.read() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 67108865\r\n\r\n", 413),
        (b"POST /v1/messages HTTP/1.1\r\ncontent-length: +5\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nbroken\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 505),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000, 431),
        (b"GET /v1/messages HTTP/1.1\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"DELETE /simulator/stats HTTP/1.1\r\n\r\n", 404),
    ],
)
async def test_an_invalid_request_is_refused_with_its_status(wire, head, status):
    wire.writer.write(head)
    assert (await wire.answer())[0] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"\xff"}', b'{"a":' * 100_000])
async def test_a_body_that_is_not_a_json_object_is_refused(wire, body):
    await wire.ask("/v1/messages", body)
    status, _, answer = await wire.answer()
    assert status == 400
    assert msgspec.json.decode(answer)["error"]["type"] == "invalid_request_error"


async def test_a_client_that_expects_100_continue_gets_it(wire):
    head, _, body = REQUEST.partition(b"\r\n\r\n")
    wire.writer.write(head + b"\r\nexpect: 100-continue\r\n\r\n")
    assert (await wire.head())[0] == 100
    wire.writer.write(body)
    assert (await wire.answer())[0] == 200


async def test_the_journal_can_be_read_over_http(local, wire):
    await wire.ask(
        "/v1/chat/completions",
        {"model": "sim?tokens=4&key=a/b c", "messages": [{"role": "user", "content": "hi"}]},
        headers=["authorization: Bearer secret"],
    )
    await wire.answer()
    status, entry = await get(wire, "/simulator/requests/a%2Fb%20c")
    assert (status, entry["tokens_sent"], entry["attempt"]) == (200, 4, 1)
    assert entry["headers"]["authorization"] == "Bearer secret"
    assert msgspec.json.decode(entry["body"])["messages"][0]["content"] == "hi"
    assert entry["opened_at"] <= entry["closed_at"]
    _, stats = await get(wire, "/simulator/stats")
    assert msgspec.convert(stats, Stats) == local.stats()
    assert (await get(wire, "/simulator/requests/nobody"))[0] == 404


async def test_a_request_is_found_by_the_id_of_its_answer(local, openai):
    answer = await openai.responses.create(model="sim?tokens=4", input="hello")
    assert local.find(answer.id).tokens_sent == 4


async def test_the_header_also_scripts_an_answer(openai):
    answer = await openai.chat.completions.create(
        model="anything",
        messages=[{"role": "user", "content": "x"}],
        extra_headers={"x-simulator": '{"tokens": 3}'},
    )
    assert answer.choices[0].message.content == "".join(generated_text(3))
