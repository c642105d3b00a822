"""The object of an answer, while it fills in and at the end."""

import copy
import json
from dataclasses import dataclass

import pytest

from tokenwire.enums import FinishReason
from tokenwire.errors import (
    AnswerCut,
    AnswerError,
    AnswerRefused,
    IncompleteStream,
    InvalidAnswer,
    Violation,
)
from tokenwire.stream.answer import Answer
from tokenwire.stream.answer_builder import AnswerBuilder
from tokenwire.structured.answer_type import answer_type
from tokenwire.v1 import event_pb2
from tokenwire.v1.event_pb2 import JsonResult, JsonValue, JsonViolation

from ..conftest import event, finished, started, text


@dataclass
class Step:
    title: str
    minutes: int = 5


@dataclass
class Plan:
    steps: list[Step]


PLAN = answer_type(Plan)
WHOLE = '{"steps":[{"title":"pack","minutes":7}]}'
VALID = JsonResult(is_valid=True)


def read(*events, after=0, kind=PLAN):
    builder = AnswerBuilder("st", after, is_json=True, answer_type=kind)
    for each in events:
        builder.add(each)
    return builder


def ended(answer_text, reason, result=None, kind=PLAN):
    """Return the two answers of a stream and of a unary call that ended like this."""
    results = [] if result is None else [event(3, json_result=result)]
    end = finished(4, reason)
    if reason == FinishReason.REFUSAL:
        end.finished.refusal.category = "cyber"
        end.finished.refusal.explanation = "It is dangerous."
    builder = read(started(), text(2, answer_text), *results, end, kind=kind)
    streamed = builder.build()
    return streamed, Answer.from_response(streamed.response, kind)


def raised(answer, kind):
    with pytest.raises(AnswerError) as caught:
        _ = answer.parsed
    assert type(caught.value) is kind
    assert caught.value.stream_id == "st_test"
    return caught.value


@pytest.mark.parametrize("result", [VALID, None, JsonResult(is_unchecked=True)])
def test_a_whole_answer_is_an_object_of_the_class(result):
    for answer in ended(WHOLE, FinishReason.STOP, result):
        assert answer.parsed == Plan([Step("pack", 7)])
        assert answer.parsed is answer.parsed


def test_the_class_decides_because_the_schema_requires_more_than_the_class():
    missing = JsonResult(violations=[JsonViolation(pointer="/steps/0", description="minutes")])
    for answer in ended('{"steps":[{"title":"a"}]}', FinishReason.STOP, missing):
        assert answer.parsed == Plan([Step("a", 5)])


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.STOP_SEQUENCE])
def test_an_answer_that_the_class_refuses_is_an_error_with_every_violation(reason):
    result = JsonResult(
        violations=[
            JsonViolation(pointer="/steps/0/title", description="1 is not of type string"),
            JsonViolation(pointer="/steps/1", description="no title"),
        ]
    )
    wrong = '{"steps":[{"title":1},{}]}'
    for answer in ended(wrong, reason, result):
        error = raised(answer, InvalidAnswer)
        assert error.text == wrong
        assert error.violations == (
            Violation("/steps/0/title", "Expected `str`, got `int`"),
            Violation("/steps/1", "no title"),
        )
        assert str(error) == "the answer at /steps/0/title: Expected `str`, got `int`"


CUTS = [
    FinishReason.MAX_TOKENS,
    FinishReason.CONTENT_FILTER,
    FinishReason.CONTEXT_FULL,
    FinishReason.TIME_LIMIT,
    FinishReason.BUDGET,
    FinishReason.CANCELLED,
    FinishReason.OTHER,
    FinishReason(99),
]


@pytest.mark.parametrize("reason", CUTS)
@pytest.mark.parametrize("kind", [PLAN, None])
def test_a_cut_answer_is_an_error_with_its_text_and_what_it_has(reason, kind):
    part = '{"steps":[{"title":"pa'
    result = JsonResult(violations=[JsonViolation(description="the answer is cut off")])
    for answer in ended(part, reason, result, kind):
        error = raised(answer, AnswerCut)
        assert (error.text, error.finish_reason) == (part, reason)
        assert error.partial == {"steps": [{"title": "pa"}]}
        assert error.violations[0].field == ""
        assert str(reason) in str(error)


def test_an_answer_that_is_complete_when_it_is_cut_is_not_lost():
    for answer in ended(WHOLE, FinishReason.MAX_TOKENS, VALID):
        assert answer.parsed == Plan([Step("pack", 7)])


@pytest.mark.parametrize("kind", [PLAN, None])
@pytest.mark.parametrize("said", ["I cannot help with that.", WHOLE])
def test_a_refusal_is_an_error_with_its_text_and_explanation(kind, said):
    for answer in ended(said, FinishReason.REFUSAL, kind=kind):
        error = raised(answer, AnswerRefused)
        assert (error.text, error.category) == (said, "cyber")
        assert error.explanation == "It is dangerous."
        assert str(error) == "the model refused to answer: It is dangerous."
        assert error.usage == answer.usage


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (FinishReason.TOOL_CALLS, "the model called tools instead of answering"),
        (FinishReason.INVALID_TOOL_CALLS, "the model called tools instead of answering"),
        (FinishReason.PAUSED, "the model paused before it answered"),
    ],
)
@pytest.mark.parametrize("kind", [PLAN, None])
@pytest.mark.parametrize("said", ["", "Let me look."])
def test_a_turn_without_an_answer_has_no_object(kind, reason, message, said):
    result = JsonResult(violations=[JsonViolation(description="not JSON")]) if said else None
    for answer in ended(said, reason, result, kind):
        with pytest.raises(IncompleteStream, match=message):
            _ = answer.parsed


def test_an_answer_without_its_end_or_its_beginning_has_no_object():
    with pytest.raises(IncompleteStream, match="not read to its end"):
        _ = read(started(), text(2, WHOLE)).build().parsed
    with pytest.raises(IncompleteStream, match="read from a cursor"):
        _ = read(text(3, WHOLE), finished(4), after=2).build().parsed


def test_json_without_a_schema_that_is_checked_names_what_its_request_needs():
    for answer in ended(WHOLE, FinishReason.STOP, kind=None):
        with pytest.raises(IncompleteStream, match=r"needs a class or json_format\(\)"):
            _ = answer.parsed


def commentary(sequence, piece, index):
    delta = event_pb2.TextDelta(text=piece, index=index, phase=event_pb2.TEXT_PHASE_COMMENTARY)
    return event(sequence, text=delta)


def value(sequence, pointer, value_json, index=0):
    return event(
        sequence, json_value=JsonValue(pointer=pointer, value_json=value_json, index=index)
    )


def test_the_partial_answer_has_the_text_of_an_unfinished_string():
    builder = read(started())
    seen = []
    for sequence, piece in enumerate(
        ['{"st', 'eps":[', '{"title":"pa', 'ck","minutes":7', "}]}"], 2
    ):
        builder.add(text(sequence, piece))
        seen.append(copy.deepcopy(builder.partial))
    assert seen == [
        {},
        {"steps": []},
        {"steps": [{"title": "pa"}]},
        {"steps": [{"title": "pack"}]},
        {"steps": [{"title": "pack", "minutes": 7}]},
    ]


def test_the_partial_answer_grows_with_each_event_and_never_shrinks():
    document = {"steps": [{"title": "pack the bags", "minutes": 7}, {"title": "go", "minutes": 1}]}
    whole = json.dumps(document)
    builder = read(started())
    before = 0
    for position in range(0, len(whole), 3):
        builder.add(text(2 + position, whole[position : position + 3]))
        now = len(json.dumps(builder.partial))
        assert now >= before
        before = now
        if position > 30:
            builder.add(value(3 + position, "/steps/0/title", '"pack the bags"'))
            assert len(json.dumps(builder.partial)) == now
    assert builder.partial == document


def test_a_value_that_the_server_leaves_out_is_in_the_partial_answer():
    omitted = JsonValue(pointer="/steps/0/title", is_omitted=True)
    builder = read(started(), text(2, '{"steps":[{"title":"pack",'), event(3, json_value=omitted))
    assert builder.partial == {"steps": [{"title": "pack"}]}


def test_commentaries_and_blank_blocks_are_not_the_answer():
    builder = read(
        started(),
        commentary(2, "I look ", 0),
        text(3, '{"a', 0),
        text(4, " \n", 1),
        text(5, WHOLE, 2),
        text(6, "[1]", 3),
    )
    assert builder.partial == {"steps": [{"title": "pack", "minutes": 7}]}


def test_text_that_is_not_json_falls_back_to_the_values_of_the_server():
    builder = read(started(), text(2, '```json\n{"a":1'), value(3, "/a", "1"))
    assert builder.partial == {"a": 1}


def test_values_of_another_block_are_used_instead_of_the_first_one():
    builder = read(started(), text(2, "[7,", 0), value(3, "/a", "1", index=1))
    assert builder.partial == {"a": 1}


def test_after_a_cursor_only_complete_values_are_known():
    builder = read(text(3, '"b":"c'), value(4, "/a", "1"), after=2)
    assert builder.partial == {"a": 1}


def test_an_answer_that_is_not_json_has_no_partial_object():
    builder = AnswerBuilder()
    for each in (started(), text(2, "[1, 2]")):
        builder.add(each)
    assert builder.partial is None
