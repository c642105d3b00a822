"""A script says at once what is wrong with it, and adds what the author of a test does not care about."""

import json
import time

import pytest

from tokenwire.testing import Gate, Script
from tokenwire.testing.faults import CODES
from tokenwire.testing.json_pieces import json_pieces
from tokenwire.testing.script import Emit, Finish
from tokenwire.testing.scripts import Scripts
from tokenwire.v1 import chat_pb2, error_pb2, event_pb2
from tokenwire_server.rpc import status


def emitted(script):
    return [step.event for step in script.steps if isinstance(step, Emit)]


def test_the_codes_are_those_of_the_server():
    assert CODES == status.CODES
    assert {f"ERROR_REASON_{reason}" for reason in CODES} | {"ERROR_REASON_UNSPECIFIED"} == set(
        error_pb2.ErrorReason.keys()
    )


def test_every_kind_of_content_is_a_block_of_its_own():
    script = (
        Script().reasoning("a", "b").text("c").text("d").tool_call("t").tool_call("t").text("e")
    )
    indexes = [
        (kind, getattr(event, kind).index)
        for event in emitted(script)
        for kind in [event.WhichOneof("event")]
    ]
    assert indexes == [
        *[("reasoning", 0)] * 2,
        *[("text", 1)] * 2,
        *[("tool_call_started", 2), ("tool_call_delta", 2), ("tool_call", 2)],
        *[("tool_call_started", 3), ("tool_call_delta", 3), ("tool_call", 3)],
        ("text", 4),
    ]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(), event_pb2.FINISH_REASON_STOP),
        (Script().text("a"), event_pb2.FINISH_REASON_STOP),
        (Script().tool_call("t"), event_pb2.FINISH_REASON_TOOL_CALLS),
        (Script().tool_call("t", "{"), event_pb2.FINISH_REASON_INVALID_TOOL_CALLS),
        (Script().tool_call("t", "[]"), event_pb2.FINISH_REASON_INVALID_TOOL_CALLS),
        (Script().text("a").finish("CONTENT_FILTER"), event_pb2.FINISH_REASON_CONTENT_FILTER),
    ],
)
def test_a_script_ends_as_its_content_suggests(script, reason):
    assert script.with_end().steps[-1] == Finish(event_pb2.Finished(reason=reason))


def test_the_arguments_of_a_tool_call_come_in_as_many_pieces_as_wanted():
    events = emitted(Script().tool_call("t", {"city": "Köln"}, id="c", pieces=3))
    deltas = [e.tool_call_delta.arguments_json for e in events if e.HasField("tool_call_delta")]
    assert len(deltas) == 3
    assert "".join(deltas) == events[-1].tool_call.tool_call.arguments_json == '{"city": "Köln"}'


def test_a_json_answer_has_each_value_behind_its_text():
    value = {"a/b": [1, {"~": None}], "empty": {}, "none": []}
    pieces = list(json_pieces(value))
    texts = [piece for piece in pieces if isinstance(piece, str)]
    assert json.loads("".join(texts)) == value
    values = [piece for piece in pieces if not isinstance(piece, str)]
    assert [each.pointer for each in values] == [
        "/a~1b/0", "/a~1b/1/~0", "/a~1b/1", "/a~1b", "/empty", "/none", "",
    ]  # fmt: skip
    assert json.loads(values[-1].value_json) == value
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            assert text.endswith(piece.value_json)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: Script().fail("NONSENSE"), ValueError, "unknown reason 'NONSENSE'"),
        (lambda: Script().refuse("rate_limited"), ValueError, "RATE_LIMITED"),
        (lambda: Script().refuse("OVERLOADED", retry_after_s=-1), ValueError, "negative"),
        (lambda: Script().refuse("UPSTREAM_BROKEN"), ValueError, "use `fail`"),
        (lambda: Script().text("a").refuse("OVERLOADED"), ValueError, "use `fail`"),
        (lambda: Script().refuse("OVERLOADED").text("a"), ValueError, "refuses the call"),
        (lambda: Script().finish().text("a"), ValueError, "ended with `finish`"),
        (lambda: Script().silence().cut(), ValueError, "ended with `silence`"),
        (lambda: Script().finish("LENGTH"), ValueError, "MAX_TOKENS"),
        (lambda: Script().finish(reasons=1), TypeError, "reasons"),
        (lambda: Script().text(1), TypeError, "not int"),
        (lambda: Script().notice("CAUGHT_UP"), ValueError, "RETRYING"),
        (lambda: Script().usage(output=1), TypeError, "output"),
        (lambda: Script().event(text=1, usage=2), TypeError, "citation"),
        (lambda: Script().event(finished=event_pb2.Finished()), TypeError, "citation"),
        (lambda: Script().pause(-1), ValueError, "-1"),
        (lambda: Script().wait_for(1), TypeError, "a Gate is needed, not int"),
        (lambda: Script().tool_call("t", pieces=0), ValueError, "at least 1"),
        (lambda: Script().json({1: 2}), TypeError, "not int"),
        (lambda: Script().json(float("nan")), ValueError, "JSON"),
        (lambda: Scripts().add("Hello", None), TypeError, "use answer()"),
        (lambda: Gate().wait_until_reached(within_s=0), TimeoutError, "reached 0 times"),
    ],
)
def test_wrong_use_says_what_is_wrong(wrong, error, says):
    with pytest.raises(error) as raised:
        wrong()
    assert says in str(raised.value)


def test_scripts_are_taken_in_order_and_those_of_a_model_only_for_it():
    scripts = Scripts()
    first, second, fallback = Script().text("1"), Script().text("2"), Script().text("0")
    scripts.add(first, "a/special")
    scripts.add(second, None)
    scripts.set_always(fallback, None)
    other, special = chat_pb2.ChatRequest(model="a/other"), chat_pb2.ChatRequest(model="a/special")
    assert scripts.next("Chat", other) is second
    assert scripts.next("Chat", special) is first
    assert scripts.next("Chat", special) is fallback
    assert scripts.unused_count == 0


def test_a_long_answer_is_made_in_proportion_to_its_length():
    """Each piece copied all before it: 100,000 pieces took half a minute."""
    count = 100_000
    began = time.process_time()
    assert len(Script().text(*["a"] * count).steps) == count
    assert time.process_time() - began < 10
