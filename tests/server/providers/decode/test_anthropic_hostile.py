"""The decoder of Anthropic's Messages format with unknown, malformed and endless input."""

import json

import pytest
from anthropic_events import call, decode, delta, ending, event, start, stop
from hypothesis import example, given
from hypothesis import strategies as st

from tokenwire_server.errors import (
    UpstreamBroken,
    UpstreamError,
)
from tokenwire_server.events import (
    FinishReason,
    InvalidToolCall,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from tokenwire_server.providers.decode.anthropic.blocks import MAX_BUFFERED_CHARS, MAX_OPEN_BLOCKS
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.sse import MAX_EVENT_BYTES


def whole_calls(deltas):
    return [delta.arguments_json for delta in deltas if isinstance(delta, ToolCall)]


TEXT = start(0, "text", text="") + delta(0, "text_delta", text="Hi") + stop(0)


@pytest.mark.parametrize(
    "unknown",
    [
        event("a_new_event", delta=[], content_block=7, usage="much", index="x", error=0),
        start(7, "a_new_block", text={"not": "text"}, input=[], data=5)
        + delta(7, "text_delta", text="not the caller's")
        + stop(7),
        delta(7, "a_new_delta", text=["not text"]),
        start(7, "text", text="", citations=[{"type": "new"}])
        + delta(7, "citations_delta", citation={"text": ["x"]})
        + stop(7),
        event("ping"),
        b": a comment\n\n",
        b"event: ping\n\n",
        b"retry: 5\nid: 1\n\n",
    ],
)
def test_unknown_events_blocks_and_deltas_are_ignored(unknown):
    deltas, decoder = decode(TEXT, unknown, ending("end_turn"))
    assert deltas == [TextDelta("Hi", 0)]
    assert decoder.end == Complete(FinishReason.STOP, "end_turn")


@pytest.mark.parametrize(
    "malformed",
    [
        b"data: {\n\n",
        b"data: half a ch\xc3\n\n",
        b"data: null\n\n",
        b"data: []\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        delta(0, "text_delta", text="of no block"),
        stop(0),
        start(0, "text") + start(0, "text"),
        start(0, "tool_use", id="a"),
    ],
)
def test_an_invalid_event_breaks_the_answer(malformed):
    assert isinstance(decode(malformed, ending("end_turn"))[1].end, UpstreamBroken)


def test_buffered_arguments_and_signatures_are_bounded():
    mebibyte = "x" * 2**20
    for piece in (
        delta(0, "input_json_delta", partial_json=mebibyte),
        delta(1, "signature_delta", signature=mebibyte * 3),
    ):
        decoder = AnthropicDecoder()
        decoder.feed(start(0, "tool_use", id="a", name="f") + start(1, "thinking", thinking=""))
        decoder.feed(start(2, "thinking", thinking="") + start(3, "thinking", thinking=""))
        for n in range(MAX_BUFFERED_CHARS // 2**20 + 1):
            decoder.feed(piece.replace(b'"index": 1', b'"index": %d' % (1 + n % 3)))
        assert isinstance(decoder.end, UpstreamBroken)


def test_names_ids_and_initial_inputs_of_open_calls_count_as_buffered():
    for fields in ({"name": "n" * 2**16}, {"id": "i" * 2**16}, {"input": {"a": "x" * 2**16}}):
        decoder = AnthropicDecoder()
        for n in range(MAX_BUFFERED_CHARS // 2**16):
            decoder.feed(start(n, "tool_use", **{"id": "a", "name": "f"} | fields))
        assert isinstance(decoder.end, UpstreamBroken)
        assert "characters" in str(decoder.end)


def test_buffered_text_is_released_when_its_block_ends():
    decoder = AnthropicDecoder()
    arguments = json.dumps({"a": "x" * 2**20})
    for n in range(2 * MAX_BUFFERED_CHARS // 2**20):
        assert len(whole_calls(decoder.feed(call(n, arguments)))) == 1
        decoder.feed(start(n, "thinking", thinking="", signature=arguments) + stop(n))
    assert decoder.end is None


def test_open_blocks_are_bounded():
    decoder = AnthropicDecoder()
    for n in range(MAX_OPEN_BLOCKS):
        decoder.feed(start(n, "text", text=""))
    assert decoder.end is None
    decoder.feed(start(MAX_OPEN_BLOCKS, "text", text=""))
    assert isinstance(decoder.end, UpstreamBroken)


def test_an_endless_line_breaks_the_answer():
    decoder = AnthropicDecoder()
    fed = 0
    while decoder.end is None and fed < 2 * MAX_EVENT_BYTES:
        decoder.feed(b"x" * 65536)
        fed += 65536
    assert isinstance(decoder.end, UpstreamBroken)


DELTA_TYPES = (
    TextDelta,
    ReasoningDelta,
    ToolCallStarted,
    ToolCallDelta,
    ToolCall,
    InvalidToolCall,
)
TYPES = st.sampled_from(
    ["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "new"]
)
DELTAS = st.sampled_from(
    [
        "text_delta",
        "thinking_delta",
        "signature_delta",
        "input_json_delta",
        "citations_delta",
        "new",
    ]
)
VALUES = st.sampled_from(["", "x", "{", "{}", "\ud83d", "\ude00", None, 7, [], {}])
FIELDS = st.dictionaries(
    st.sampled_from(
        ["text", "thinking", "signature", "partial_json", "id", "name", "input", "data"]
    ),
    VALUES,
)
EVENTS = st.one_of(
    st.builds(lambda i, t, f: start(i, t, **f), st.integers(0, 2), TYPES, FIELDS),
    st.builds(lambda i, t, f: delta(i, t, **f), st.integers(0, 2), DELTAS, FIELDS),
    st.builds(stop, st.integers(0, 2)),
    st.builds(lambda r: event("message_delta", delta={"stop_reason": r}), VALUES),
    st.sampled_from([event("message_stop"), event("ping"), event("error"), TEXT, b"\xff", b"\r\n"]),
    st.binary(max_size=9),
)


@given(st.lists(EVENTS, max_size=12))
@example([start(0, "text", input="\ud83d")])
@example([start(0, "tool_use", text="\ud83d", input={}), stop(0), ending("tool_use")])
def test_the_decoder_never_raises_and_its_result_does_not_depend_on_the_split(events):
    body = b"".join(events)
    deltas, decoder = decode(body)
    assert isinstance(decoder.end, Complete | UpstreamError)
    if isinstance(decoder.end, Complete):
        assert b"message_stop" in body
    for made in deltas:
        assert isinstance(made, DELTA_TYPES)
        str(made).encode()
    bytewise, again = decode(*(body[i : i + 1] for i in range(len(body))))
    assert bytewise == deltas
    assert (type(again.end), str(again.end)) == (type(decoder.end), str(decoder.end))
    assert again.usage == decoder.usage
