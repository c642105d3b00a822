"""Chat Completions with values of odd types, in every field that the decoder reads."""

import copy
import json

import pytest
from msgspec import inspect

from tokenwire_server.errors import UpstreamBroken
from tokenwire_server.events import FinishReason, TextDelta, ToolCall
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.openai_chat import wire
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder

ODD_VALUES = [None, False, True, 0, 3, -1, 2.5, "", "odd", [], ["odd"], [{}], {}, {"odd": 1}]

NEEDED = {
    "choices",
    "choices.index",
    "choices.delta",
    "choices.delta.content",
    "choices.delta.content.refusal",
    "choices.delta.content.text",
    "choices.delta.refusal",
    "choices.delta.tool_calls",
    "choices.delta.tool_calls.index",
    "choices.delta.tool_calls.id",
    "choices.delta.tool_calls.function",
    "choices.delta.tool_calls.function.name",
    "choices.delta.tool_calls.function.arguments",
    "choices.delta.function_call",
    "choices.delta.function_call.arguments",
    "choices.delta.function_call.name",
    "choices.error",
    "choices.finish_reason",
    "choices.native_finish_reason",
    "choices.stop_reason",
    "x_groq.error",
    "error",
}
"""Fields that text, calls or the ending depend on: another value may change the answer."""

CHUNKS = [
    {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Two "}, "finish_reason": None}]},
    {"id": "c1", "choices": [{"index": 0, "delta": {"content": "pears."}, "finish_reason": None}]},
    {
        "id": "c1",
        "choices": [
            {
                "index": 0,
                "delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]},
                "finish_reason": None,
            }
        ],
    },
    {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}},
]  # fmt: skip


def field_paths(type_, path="", structs=()):
    """Yield the paths of all fields of a wire type, without those of recursive types."""
    match type_:
        case inspect.UnionType():
            for member in type_.types:
                yield from field_paths(member, path, structs)
        case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner):
            yield from field_paths(inner, path, structs)
        case inspect.StructType(cls=cls) if cls not in structs:
            for field in type_.fields:
                field_path = f"{path}.{field.encode_name}".removeprefix(".")
                yield field_path
                yield from field_paths(field.type, field_path, (*structs, cls))


PATHS = sorted(set(field_paths(inspect.type_info(wire.Chunk))))


def with_value(chunk, path, value):
    """Return a chunk with another value at a path, or None if it has no place for it."""
    chunk = copy.deepcopy(chunk)
    parent = chunk
    *parents, name = path.split(".")
    for key in parents:
        lists = ("choices", "tool_calls")
        parent = parent.setdefault(key, [{}] if key in lists else {})
        parent = parent[0] if isinstance(parent, list) and parent else parent
        if not isinstance(parent, dict):
            return None
    parent[name] = value
    return chunk


def decode(chunks):
    decoder = OpenAIChatDecoder()
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    deltas = decoder.feed(body + b"data: [DONE]\n\n") + decoder.eof()
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    calls = [
        (delta.id, delta.name, delta.arguments_json)
        for delta in deltas
        if isinstance(delta, ToolCall)
    ]
    return decoder, (text, calls, decoder.end)


def variants(path):
    for position, chunk in enumerate(CHUNKS):
        for value in ODD_VALUES:
            odd = with_value(chunk, path, value)
            if odd is not None:
                yield [*CHUNKS[:position], odd, *CHUNKS[position + 1 :]]


@pytest.mark.parametrize("path", [path for path in PATHS if path not in NEEDED])
def test_an_odd_value_in_a_field_that_the_answer_does_not_need_changes_nothing(path):
    expected = ("Two pears.", [("a", "f", "{}")], Complete(FinishReason.TOOL_CALLS, "tool_calls"))

    for chunks in variants(path):
        _, (text, calls, end) = decode(chunks)
        assert (text, calls, end) == expected, chunks


@pytest.mark.parametrize("path", sorted(NEEDED))
def test_an_odd_value_in_a_needed_field_never_makes_the_event_unreadable(path):
    for chunks in variants(path):
        decoder, _ = decode(chunks)
        assert "cannot be read" not in str(decoder.end), chunks
        assert decoder.response_id == "c1"


def test_needed_fields_exist():
    assert set(PATHS) >= NEEDED


def test_odd_values_in_needed_fields_are_read_by_their_meaning():
    call = {"index": "0", "id": 3, "function": {"name": "f", "arguments": {"q": [1, "é"]}}}
    chunks = [
        {"choices": [{"index": "0", "delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": ["a", {"type": "text", "text": "b"}]}}]},
        {"choices": [{"index": 1.0, "delta": {"content": "of another choice"}}]},
        {"choices": {"index": 0, "delta": {"tool_calls": call}, "finish_reason": ["stop"]}},
    ]

    _, (text, calls, end) = decode(chunks)

    assert end == Complete(FinishReason.TOOL_CALLS, "stop")
    assert (text, calls) == ("5ab", [("3", "f", '{"q":[1,"é"]}')])


def test_the_first_unreadable_fields_are_the_problem_of_the_answer():
    first = with_value(CHUNKS[0], "choices.delta.refusal", ["secret"])
    second = with_value(CHUNKS[1], "id", {})

    decoder, _ = decode([first, second, *CHUNKS[2:]])

    assert decoder.problem == (
        "fields of its answer cannot be read: choices[0].delta.refusal: array"
    )


def test_an_event_that_is_not_an_object_breaks_the_answer():
    decoder = OpenAIChatDecoder()
    decoder.feed(b"data: [1, 2]\n\n")

    assert isinstance(decoder.end, UpstreamBroken)
