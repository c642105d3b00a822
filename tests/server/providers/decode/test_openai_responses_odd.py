"""Answers in the Responses format in which fields have other types than the format's."""

import copy
import json

import pytest

from tokenwire_server.events import FinishReason, ReasoningDelta, TextDelta, ToolCall, Usage
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder

ODD_VALUES = [None, True, 7, -1.5, "", "canary", [], {}, [None], {"canary": [1]}]
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "status": "completed",
    "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "gAAA",
}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": "Two pears.", "annotations": [], "logprobs": []}],
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "status": "completed",
    "call_id": "call_1",
    "name": "look",
    "arguments": '{"a":1}',
}
USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
}
RESPONSE = {"id": "resp_1", "model": "m", "status": "completed", "incomplete_details": None}
IN_REASONING = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
IN_MESSAGE = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
IN_CALL = {"item_id": "fc_1", "output_index": 2}
TEXT = "response.output_text"
SUMMARY = "response.reasoning_summary_text"
ARGUMENTS = "response.function_call_arguments"
EVENTS = [
    ("response.created", {"response": RESPONSE}),
    ("response.output_item.added", {"item": {**THOUGHT, "summary": []}, "output_index": 0}),
    (f"{SUMMARY}.delta", {"delta": "Hm.", **IN_REASONING}),
    (f"{SUMMARY}.done", {"text": "Hm.", **IN_REASONING}),
    ("response.output_item.done", {"item": THOUGHT, "output_index": 0}),
    ("response.output_item.added", {"item": {**MESSAGE, "content": []}, "output_index": 1}),
    ("response.content_part.added", {"part": {"type": "output_text", "text": ""}, **IN_MESSAGE}),
    (f"{TEXT}.delta", {"delta": "Two", "logprobs": [], **IN_MESSAGE}),
    (f"{TEXT}.delta", {"delta": " pears.", "logprobs": [], **IN_MESSAGE}),
    (f"{TEXT}.done", {"text": "Two pears.", "logprobs": [], **IN_MESSAGE}),
    ("response.content_part.done", {"part": MESSAGE["content"][0], **IN_MESSAGE}),
    ("response.output_item.done", {"item": MESSAGE, "output_index": 1}),
    ("response.output_item.added", {"item": {**CALL, "arguments": ""}, "output_index": 2}),
    (f"{ARGUMENTS}.delta", {"delta": '{"a":', **IN_CALL}),
    (f"{ARGUMENTS}.delta", {"delta": "1}", **IN_CALL}),
    (f"{ARGUMENTS}.done", {"arguments": '{"a":1}', "name": "look", **IN_CALL}),
    ("response.output_item.done", {"item": CALL, "output_index": 2}),
    (
        "response.completed",
        {"response": {**RESPONSE, "output": [THOUGHT, MESSAGE, CALL], "usage": USAGE}},
    ),
]
BODIES = [{"type": kind, **fields} for kind, fields in EVENTS]
NEEDED = {"delta", "text", "arguments", "name", "call_id"}
"""Fields whose value is content. An odd value that can be read changes it."""


def paths(value, path=()):
    """Yield the paths of all fields and elements."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in pairs:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from paths(child, (*path, key))


def frames(bodies):
    for (kind, _), body in zip(EVENTS, bodies, strict=True):
        yield f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()


def decode(bodies):
    decoder = OpenAIResponsesDecoder()
    deltas = [delta for frame in frames(bodies) for delta in decoder.feed(frame)]
    return deltas, decoder


def content(deltas):
    texts = [
        "".join(d.text for d in deltas if isinstance(d, t)) for t in (TextDelta, ReasoningDelta)
    ]
    calls = [(d.id, d.name, d.arguments_json) for d in deltas if isinstance(d, ToolCall)]
    return [*texts, calls]


def is_odd(value, original):
    return type(value) is not type(original) or value in ([None], {"canary": [1]})


@pytest.mark.parametrize("number", range(len(BODIES)), ids=[kind for kind, _ in EVENTS])
def test_an_odd_value_costs_at_most_its_own_field(number):
    expected = content(decode(BODIES)[0])
    assert expected == ["Two pears.", "Hm.", [("call_1", "look", '{"a":1}')]]
    for path in paths(BODIES[number]):
        for value in ODD_VALUES:
            bodies = copy.deepcopy(BODIES)
            parent = bodies[number]
            for key in path[:-1]:
                parent = parent[key]
            if not is_odd(value, parent[path[-1]]):
                continue
            parent[path[-1]] = value

            deltas, decoder = decode(bodies)

            assert decoder.end.reason == FinishReason.TOOL_CALLS, (path, value, decoder.end)
            if path[-1] not in NEEDED:
                assert content(deltas) == expected, (path, value)
            if "usage" not in path and path != ("response",):
                details = {"reasoning_tokens": 2, "cache_read_tokens": 8, "cache_write_tokens": 4}
                assert decoder.usage == Usage(50, 7, **details), (path, value)
            assert "canary" not in decoder.problem


def test_content_is_read_from_other_types_if_their_meaning_is_clear():
    whole = [
        {**THOUGHT, "summary": "Hm."},
        {**MESSAGE, "content": "Two pears."},
        {**CALL, "arguments": {"a": 1}, "call_id": 3},
    ]
    response = {**RESPONSE, "output": whole}
    decoder = OpenAIResponsesDecoder()
    kind = "response.completed"
    deltas = decoder.feed(f"data: {json.dumps({'type': kind, 'response': response})}\n\n".encode())
    assert content(deltas) == ["Two pears.", "Hm.", [("3", "look", '{"a":1}')]]


def test_fragments_may_be_objects():
    bodies = copy.deepcopy(BODIES)
    bodies[7]["delta"] = {"text": "Two"}
    bodies[13]["delta"], bodies[14]["delta"] = {"a": 1}, ""
    assert content(decode(bodies)[0]) == ["Two pears.", "Hm.", [("call_1", "look", '{"a":1}')]]


@pytest.mark.parametrize("details", ["max_output_tokens", [{"reason": "max_output_tokens"}]])
def test_the_reason_of_an_incomplete_answer_is_read_from_other_types(details):
    response = {**RESPONSE, "status": "incomplete", "incomplete_details": details}
    _, decoder = decode([*BODIES[:-1], {**BODIES[-1], "response": response}])
    assert decoder.end == Complete(FinishReason.MAX_TOKENS, "max_output_tokens")


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"input_tokens": 50.0, "output_tokens": 7.4}, Usage(50, 7)),
        ({"input_tokens": "50", "output_tokens": 7}, Usage(50, 7)),
        ([{"input_tokens": 50, "output_tokens": 7}], Usage(50, 7)),
        ({"input_tokens": -3, "output_tokens": 7}, None),
        ([], None),
        (
            {
                "input_tokens": 50,
                "output_tokens": 7,
                "total_tokens": 157,
                "input_tokens_details": {"cached_tokens": 100},
            },
            Usage(150, 7, cache_read_tokens=100),
        ),
        (
            {
                "input_tokens": 50,
                "output_tokens": 7,
                "total_tokens": 60,
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(50, 10, reasoning_tokens=3),
        ),
    ],
)
def test_counts_are_read_if_their_meaning_is_clear(usage, read):
    completed = {**BODIES[-1], "response": {**RESPONSE, "usage": usage}}
    _, decoder = decode([*BODIES[:-1], completed])
    assert decoder.usage == read


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"response": {"id": ["canary"]}}, "response.id: array"),
        ({"type": EVENTS[4][0], "item": {**THOUGHT, "status": {}}}, "item.status: object"),
    ],
)
def test_what_cannot_be_read_is_named_once_by_its_path_and_type(fields, path):
    completed = {**BODIES[-1], "response": {**RESPONSE, "usage": "canary"}}
    _, decoder = decode([{**BODIES[0], **fields}, *BODIES[1:-1], completed])
    assert decoder.problem == f"fields of its answer cannot be read: {path}"
