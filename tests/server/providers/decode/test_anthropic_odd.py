"""The decoder of Anthropic's Messages format with values of other types than the format's."""

import copy
import json

import pytest
from anthropic_events import call, decode, delta, ending, event, start, stop

from tokenwire_server.errors import UpstreamBroken
from tokenwire_server.events import (
    Citation,
    CitationKind,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallStarted,
)
from tokenwire_server.providers.decode.base import Complete

USAGE = {
    "input_tokens": 5,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 2,
    "output_tokens": 1,
    "output_tokens_details": {"thinking_tokens": 1},
    "cache_creation": {"ephemeral_1h_input_tokens": 1},
    "server_tool_use": {"web_search_requests": 1},
    "service_tier": "standard",
    "iterations": None,
}
MESSAGE = {"id": "msg_1", "model": "claude", "role": "assistant", "content": [], "usage": USAGE}
ENDING = {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": {"category": "bio"}}
EVENTS = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "ping"},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "Hm."},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "sig"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "text", "text": "", "citations": None},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "text_delta", "text": "Hi"},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    },
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": ENDING, "usage": {**USAGE, "output_tokens": 9}},
    {"type": "message_stop"},
]
ODD_VALUES = [None, True, 7, -1.5, "7", "", [], {}, ["x"], {"x": 1}]
CONTENT = {"text", "thinking", "signature", "partial_json", "id", "name", "stop_reason"}
"""Fields that are the content of the answer: another value is another answer."""

OTHERS = {"index": [7, "7", -1.5], "type": ["7"]}
"""Values that are not odd: the index of another block, and a type that is unknown."""


def paths(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths(inner, (*path, key))


def body(events):
    """Write the events. Their names are those of the original events, also where a type is odd."""
    lines = [
        f"event: {original['type']}\ndata: {json.dumps(written)}\n\n"
        for original, written in zip(EVENTS, events, strict=True)
    ]
    return "".join(lines).encode()


def answer(deltas):
    """Return what the answer consists of, by kind."""
    return {
        "text": "".join(made.text for made in deltas if isinstance(made, TextDelta)),
        "thinking": "".join(made.text for made in deltas if isinstance(made, ReasoningDelta)),
        "calls": [made.arguments_json for made in deltas if isinstance(made, ToolCall)],
    }


WHOLE = {"text": "Hi", "thinking": "Hm.", "calls": ["{}"]}
KINDS = {0: "thinking", 1: "text", 2: "calls"}
"""What the blocks contain."""


@pytest.mark.parametrize(
    ("n", "path", "odd"),
    [
        (n, path, odd)
        for n, written in enumerate(EVENTS)
        for path in paths(written)
        for odd in ODD_VALUES
        if odd not in OTHERS.get(path[-1], ())
    ],
)
def test_an_odd_value_costs_at_most_its_own_field(n, path, odd):
    events = copy.deepcopy(EVENTS)
    place = events[n]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd

    deltas, decoder = decode(body(events))

    if path[-1] in CONTENT or path in (("delta",), ("content_block",)):
        kind = KINDS.get(EVENTS[n].get("index"), "ending")
        kept = {other: value for other, value in WHOLE.items() if other != kind}
        assert {other: answer(deltas)[other] for other in kept} == kept
        assert isinstance(decoder.end, Complete) or kind in ("calls", "ending")
    else:
        assert answer(deltas) == WHOLE
        assert decoder.end == Complete(FinishReason.TOOL_CALLS, "tool_use")


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"input": '{"q": 1}'}, '{"q": 1}'),
        ({"input": "no object"}, "{}"),
        ({"input": None}, "{}"),
    ],
)
def test_initial_arguments_may_be_a_text(fields, arguments):
    assert decode(call(0, **fields), ending("tool_use"))[0][-1].arguments_json == arguments


def test_bytes_of_initial_arguments_that_are_not_utf8_are_replaced():
    deltas, decoder = decode(
        call(0, input={"q": "a?"}).replace(b"a?", b"a\xff"), ending("tool_use")
    )
    assert deltas[-1].arguments_json == '{"q": "a\ufffd"}'
    assert decoder.end == Complete(FinishReason.TOOL_CALLS, "tool_use")


def test_fragments_may_be_objects():
    deltas, _ = decode(call(0, {"q": 1}), ending("tool_use"))
    assert deltas[-1].arguments_json == '{"q":1}'


@pytest.mark.parametrize(("id_", "expected"), [(3, "3"), ("a", "a")])
def test_the_id_of_a_call_may_be_a_number(id_, expected):
    assert decode(call(0, id=id_))[0][0] == ToolCallStarted(0, expected, "f")


def test_a_call_without_an_id_gets_one_that_differs_in_each_answer():
    def ids(message_id):
        head = event("message_start", message={"id": message_id})
        deltas, _ = decode(head, call(0, id=None), call(1, id=""))
        return {made.id for made in deltas if isinstance(made, ToolCallStarted)}

    assert ids("msg_1") == ids("msg_1")
    assert len(ids("msg_1") | ids("msg_2")) == 4


def test_blocks_need_no_index_and_no_types():
    untyped = [
        {"content_block": {"text": ""}},
        {"delta": {"text": "Hi"}},
        {"type": "content_block_stop"},
        {"delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    deltas, decoder = decode(*(f"data: {json.dumps(e)}\n\n".encode() for e in untyped))
    assert deltas == [TextDelta("Hi", 0)]
    assert isinstance(decoder.end, Complete)


@pytest.mark.parametrize("number", [-1, 2**31, 2**64])
def test_a_citation_is_kept_without_a_document_number_that_cannot_be_sent(number):
    citation = {"type": "char_location", "cited_text": "a", "document_index": number}
    deltas, _ = decode(start(0, "text", text="Hi"), delta(0, "citations_delta", citation=citation))
    assert deltas[1:] == [Citation(0, CitationKind.DOCUMENT, cited_text="a")]


def test_a_block_may_end_twice():
    deltas, decoder = decode(call(0, "{}"), stop(0), call(1, "{}"), stop(0), ending("tool_use"))
    assert [delta.index for delta in deltas if isinstance(delta, ToolCall)] == [0, 1]
    assert decoder.end == Complete(FinishReason.TOOL_CALLS, "tool_use")


def test_unreadable_fields_are_reported_once_without_their_values():
    _, decoder = decode(
        event("message_start", message={"id": ["secret"], "usage": {"input_tokens": -1}}),
        start(0, "text", text={}) + delta(0, "text_delta", text=True) + stop(0),
        ending("end_turn"),
    )
    assert decoder.problem == (
        "fields of its answer cannot be read: message.id: array; message.usage.input_tokens: number"
    )


def test_fields_of_unknown_types_are_not_reported():
    _, decoder = decode(
        event("a_new_event", index={}),
        start(0, "a_new_block", text=[True]) + stop(0),
        start(0, "text") + delta(0, "a_new_delta", text=True) + stop(0),
        ending("end_turn"),
    )
    assert decoder.problem == ""


def test_an_answer_without_a_readable_stop_reason_is_broken():
    assert isinstance(decode(ending(["end_turn"]))[1].end, UpstreamBroken)
