"""Errors of answers that are not what their request requires."""

from __future__ import annotations

from .._json import Json
from ..enums import FinishReason
from .upstream import UpstreamError


class AnswerError(UpstreamError):
    """The answer is not what the request's `response_format` requires. It is billed."""

    text: str = ""
    """The answer, if it was read from its beginning."""

    def __str__(self) -> str:
        return super().__str__() if self.reason else self.message


class InvalidAnswer(AnswerError):
    """The answer is not one JSON document, does not follow the request's schema, or its class refuses it.

    `violations` lists what is wrong, with JSON Pointers. With `fails_if_invalid`, the error of `chat` has no
    violations and no text: `resume(error.stream_id)` reads the answer.
    """


class AnswerCut(AnswerError):
    """The answer was cut before its JSON was complete, for example by `max_output_tokens`."""

    finish_reason: FinishReason = FinishReason.UNSPECIFIED
    """What cut the answer, such as MAX_TOKENS or CONTENT_FILTER."""
    partial: Json = None
    """The JSON that `text` has. None: nothing."""


class AnswerRefused(AnswerError):
    """The model refused to answer. `text` is what it said instead."""

    category = explanation = ""
    """The provider's category, and its explanation as text for people. Empty: not reported."""
