"""The JSON answer as a value, or the error that says why there is none. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from tokenwire.v1.event_pb2 import Finished, JsonResult

from ..enums import FinishReason
from ..errors import AnswerCut, AnswerRefused, IncompleteStream, InvalidAnswer, Violation
from ..structured.answer_type import AnswerType

_WITHOUT_ANSWER = {
    FinishReason.TOOL_CALLS: "the model called tools instead of answering",
    FinishReason.INVALID_TOOL_CALLS: "the model called tools instead of answering",
    FinishReason.PAUSED: "the model paused before it answered",
}
_WHOLE = frozenset({FinishReason.UNSPECIFIED, FinishReason.STOP, FinishReason.STOP_SEQUENCE})


class Position(TypedDict):
    """The position of the reader, as keyword arguments of an error."""

    stream_id: str
    last_sequence: int


def parse_answer(
    text: str | None,
    answer_type: AnswerType[Any] | None,
    finished: Finished | None,
    result: JsonResult | None,
    position: Position,
) -> Any:
    """Return the object of the answer's class, or its JSON if there is no class.

    The class alone decides whether the answer is valid, because its schema was adapted for the providers.
    Without a class, the server's `json_result` decides.

    Args:
        text: The JSON text. None: it was not read from its beginning.
        answer_type: The class.
        finished: The event `finished`. None: it was not read.
        result: The event `json_result`. None: it was not read.
        position: For the error.

    Raises:
        InvalidAnswer: the answer is not JSON, does not follow the schema, or is not valid for the class.
        AnswerCut: the answer was cut off before its JSON was complete.
        AnswerRefused: the model refused.
        IncompleteStream: the answer was not read from its beginning to its end, or has no JSON.
    """
    reason = FinishReason.UNSPECIFIED if finished is None else FinishReason(finished.reason)
    if finished is not None and reason == FinishReason.REFUSAL:
        raise _refused(text, finished, position)
    if finished is None and result is None:
        raise IncompleteStream("the answer was not read to its end", **position)
    if answer_type is None and result is None:
        raise IncompleteStream(
            _WITHOUT_ANSWER.get(reason)
            or "there is no JSON answer: the request needs a class or json_format() as response_format",
            **position,
        )
    if answer_type is None and result is not None and not result.is_valid:
        raise _by_ending(_invalid(text, result), reason, result, position)
    if text is None:
        raise IncompleteStream(
            "the stream was read from a cursor, so the beginning of the answer is missing",
            **position,
        )
    if answer_type is None:
        return json.loads(text)
    try:
        return answer_type.parse(text)
    except InvalidAnswer as error:
        raise _by_ending(error, reason, result, position) from error.__cause__


def violations_of(result: JsonResult) -> tuple[Violation, ...]:
    """Return the error message for an invalid JSON answer."""
    return tuple(Violation(each.pointer, each.description) for each in result.violations)


def _invalid(text: str | None, result: JsonResult) -> InvalidAnswer:
    is_checked = result.violations or not result.is_unchecked
    error = InvalidAnswer(
        "the answer does not follow the schema"
        if is_checked
        else "the answer was not checked with the schema"
    )
    error.text = text or ""
    return error


def _refused(text: str | None, finished: Finished, position: Position) -> AnswerRefused:
    explanation = finished.refusal.explanation
    message = "the model refused to answer"
    error = AnswerRefused(f"{message}: {explanation}" if explanation else message, **position)
    error.text = text or ""
    error.category = finished.refusal.category
    error.explanation = explanation
    error.usage = finished.usage if finished.HasField("usage") else None
    return error


def _by_ending(
    error: InvalidAnswer, reason: FinishReason, result: JsonResult | None, position: Position
) -> InvalidAnswer | AnswerCut | IncompleteStream:
    """Return the error for an invalid answer, depending on how the answer ended."""
    if reason in _WITHOUT_ANSWER:
        return IncompleteStream(_WITHOUT_ANSWER[reason], **position)
    more = () if result is None else violations_of(result)
    fields = {each.field for each in error.violations}
    violations = (*error.violations, *(each for each in more if each.field not in fields))
    if reason in _WHOLE:
        error.violations = violations
        error.stream_id, error.last_sequence = position["stream_id"], position["last_sequence"]
        return error
    from .growing_json import GrowingJson

    growing = GrowingJson()
    growing.add(error.text)
    cut = AnswerCut(
        f"the answer was cut off before its JSON was complete: {reason}",
        violations=violations,
        **position,
    )
    cut.text, cut.finish_reason, cut.partial = error.text, reason, growing.value
    return cut
