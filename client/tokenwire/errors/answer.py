"""Errors of answers that do not have the format that their request requires."""

from __future__ import annotations

from .._json import Json
from ..enums import FinishReason
from .upstream import UpstreamError


class AnswerError(UpstreamError):
    """The answer does not have the request's `response_format`. It is billed."""

    text: str = ""
    """The answer, if it was read from its beginning."""

    def __str__(self) -> str:
        return super().__str__() if self.reason else self.message


class InvalidAnswer(AnswerError):
    """The answer is not one JSON document, does not follow the schema, or is not valid for the class.

    `violations` lists the problems, with JSON Pointers. With `fails_if_invalid`, the error of `chat` has no
    violations and no text: `resume(error.stream_id)` reads the answer.
    """


class AnswerCut(AnswerError):
    """The answer was cut off before its JSON was complete, for example by `max_output_tokens`."""

    finish_reason: FinishReason = FinishReason.UNSPECIFIED
    """Why the answer was cut off, such as MAX_TOKENS or CONTENT_FILTER."""
    partial: Json = None
    """The JSON that arrived. None: nothing."""


class AnswerRefused(AnswerError):
    """The model refused to answer. `text` is its text in place of the JSON."""

    category = explanation = ""
    """The provider's category, and its explanation as plain text. Empty: not reported."""
