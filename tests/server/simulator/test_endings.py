"""The words with which simulated answers end, the words of errors, and other bodies than a stream."""

import zlib

import pytest
from anthropic.types import RawMessageDeltaEvent
from openai import APIStatusError, RateLimitError

from tokenwire_server.simulator import generated_text

PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
HELLO = [{"role": "user", "content": "hello"}]


def body_of(kind, model, *, stream=True):
    given = {"input": "hello"} if kind == "responses" else {"messages": HELLO}
    limit = {"max_tokens": 99} if kind == "messages" else {}
    return {"model": model, "stream": stream, **given, **limit}


async def answered(wire, kind, model, *, stream=True):
    await wire.ask(PATHS[kind], body_of(kind, model, stream=stream))
    return await wire.answer()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("chat", b'"finish_reason":"%b"'),
        ("messages", b'"stop_reason":"%b"'),
        ("responses", b'"incomplete_details":{"reason":"%b"}'),
    ],
)
async def test_any_word_is_sent_as_the_reason_of_the_end(wire, kind, place, stream):
    for word in ("steered", "MALFORMED_FUNCTION_CALL"):
        model = f"sim?tokens=2&finish_reason={word}"
        _, _, body = await answered(wire, kind, model, stream=stream)
        assert place % word.encode() in body


async def test_the_word_of_a_provider_behind_a_router_is_beside_the_reason(wire):
    _, _, body = await answered(wire, "chat", "sim?tokens=2&native_finish_reason=RECITATION")
    assert b'"finish_reason":"stop","native_finish_reason":"RECITATION"' in body


async def test_a_refusal_has_the_details_of_the_scenario(anthropic):
    model = "sim?refusal=1&refusal_category=bio&refusal_explanation=Not this."
    stream = await anthropic.messages.create(
        model=model, messages=HELLO, max_tokens=99, stream=True
    )
    last = [event async for event in stream if event.type == "message_delta"][-1]
    RawMessageDeltaEvent.model_validate(last.model_dump(exclude_unset=True))
    assert (last.delta.stop_details.category, last.delta.stop_details.explanation) == (
        "bio",
        "Not this.",
    )


@pytest.mark.parametrize(
    ("kind", "reason", "marker"),
    [("chat", b'"stop"', b"[DONE]"), ("messages", b'"end_turn"', b"message_stop")],
)
async def test_the_end_marker_can_be_left_out_after_the_reason(wire, kind, reason, marker):
    _, _, body = await answered(wire, kind, "sim?tokens=2&end_marker=0")
    assert reason in body
    assert marker not in body


async def test_an_error_has_the_type_code_message_and_delay_of_the_scenario(ask_error):
    error = await ask_error(
        "sim?status=429&error_type=insufficient_quota&error_code=over&error_message=Top up."
        "&retry_after_ms=1500&retry_after=Wed, 21 Oct 2026 07:28:00 GMT"
    )
    assert isinstance(error, RateLimitError)
    assert (error.type, error.code) == ("insufficient_quota", "over")
    assert error.body["message"] == "Top up."
    headers = error.response.headers
    assert headers["retry-after-ms"] == "1500"
    assert headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.fixture
def ask_error(openai):
    async def ask_error(model):
        with pytest.raises(APIStatusError) as caught:
            await openai.chat.completions.create(model=model, messages=HELLO, stream=True)
        return caught.value

    return ask_error


@pytest.mark.parametrize("kind", PATHS)
async def test_an_error_event_has_the_words_of_the_scenario(wire, kind):
    model = "sim?tokens=2&error_event_after=1&error_type=odd&error_code=odd&error_message=Odd."
    _, _, body = await answered(wire, kind, model)
    assert b'"message":"Odd."' in body
    assert b'"odd"' in body


async def test_the_body_of_an_error_can_be_anything(wire):
    status, _, body = await answered(wire, "chat", "sim?status=400&error_body=[1, nonsense")
    assert (status, body) == (400, b"[1, nonsense")


@pytest.mark.parametrize("kind", PATHS)
async def test_a_request_for_a_stream_can_get_something_else(wire, kind):
    status, headers, body = await answered(wire, kind, "sim?tokens=9&instead=answer")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body.startswith(b"{")
    assert b"".join(token.encode() for token in generated_text(5)) in body
    status, headers, body = await answered(wire, kind, "sim?instead=html")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b"<!doctype html>")
    status, headers, body = await answered(wire, kind, "sim?instead=error&error_message=Bad key.")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert b'"error":{' in body
    assert b"Bad key." in body


@pytest.mark.parametrize("noise", ["", "&split=7", "&itl_ms=1", "&instead=answer"])
@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_a_compressed_answer_has_the_same_content(wire, encoding, bits, noise):
    model = f"sim?tokens=30&encoding={encoding}{noise}"
    _, headers, body = await answered(wire, "chat", model)
    assert headers["content-encoding"] == encoding
    stream = zlib.decompressobj(wbits=bits)
    content = stream.decompress(body)
    assert stream.eof
    assert content.endswith(b"}" if "instead" in noise else b"data: [DONE]\n\n")
    assert content.count(b'"content":"') == (1 if "instead" in noise else 31)


async def test_what_was_sent_of_a_compressed_answer_can_be_read(wire):
    await wire.chat("sim?tokens=30&encoding=gzip&stall_after=3")
    await wire.head()
    stream = zlib.decompressobj(wbits=31)
    said = stream.decompress(await wire.chunk()) + stream.decompress(await wire.chunk())
    assert said.count(b'"content":"') == 4
