"""Errors of streams and of their readers."""

from __future__ import annotations

import msgspec

from ..events import Usage
from .base import StreamPosition, TokenwireError


class StreamNotFound(TokenwireError):
    reason = "STREAM_NOT_FOUND"

    def __init__(self) -> None:
        # The same text for every cause, because the cause could reveal the streams of other tenants.
        super().__init__("stream not found or expired")


class _OutOfRange(TokenwireError):
    def __init__(self, after_sequence: int, *, earliest: int, latest: int) -> None:
        self.earliest_sequence = earliest
        self.latest_sequence = latest
        super().__init__(
            f"the stream cannot be resumed after sequence {after_sequence}: "
            f"its log contains {earliest} to {latest}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "earliest_sequence": str(self.earliest_sequence),
            "latest_sequence": str(self.latest_sequence),
        }


class ResumePointExpired(_OutOfRange):
    reason = "RESUME_POINT_EXPIRED"


class ResumePointAhead(_OutOfRange):
    reason = "RESUME_POINT_AHEAD"


class InvalidAnswer(TokenwireError):
    """The answer does not follow the schema, and the request wants this to be an error. Set `at`."""

    reason = "INVALID_ANSWER"

    def __init__(self) -> None:
        super().__init__("the answer does not follow the schema: see the event json_result")


class ProducerLost(TokenwireError):
    """The lease of the server that generated the stream has expired. Set `at`."""

    reason = "PRODUCER_LOST"

    def __init__(self) -> None:
        super().__init__("the server that generated this stream is gone: the answer is incomplete")


class SlowReader(TokenwireError):
    reason = "SLOW_READER"

    def __init__(
        self, message: str, *, limit_name: str = "", earliest_sequence: int | None = None
    ) -> None:
        self.limit_name = limit_name
        self.earliest_sequence = earliest_sequence
        super().__init__(message)

    def facts(self) -> dict[str, str]:
        if self.earliest_sequence is None:
            return {}
        return {"earliest_sequence": str(self.earliest_sequence)}


class AnswerTooLarge(TokenwireError):
    reason = "ANSWER_TOO_LARGE"
    limit_name = "max_chat_answer_bytes"

    def __init__(
        self, stream_id: str, *, answer_bytes: int, limit_bytes: int, earliest_sequence: int = 1
    ) -> None:
        self.stream_id = stream_id
        self.answer_bytes = answer_bytes
        self.limit_bytes = limit_bytes
        self.earliest_sequence = earliest_sequence
        """Sequence of the oldest entry in the stream's log."""
        way_out = (
            "read it with ResumeStream"
            if earliest_sequence == 1
            else f"the stream's log begins at {earliest_sequence}, so use ChatStream for such answers"
        )
        super().__init__(
            f"the answer has {answer_bytes} bytes, more than the {limit_bytes} that Chat returns "
            f"({self.limit_name}); {way_out}"
        )

    def facts(self) -> dict[str, str]:
        return {
            "stream_id": self.stream_id,
            "answer_bytes": str(self.answer_bytes),
            "limit_bytes": str(self.limit_bytes),
            "earliest_sequence": str(self.earliest_sequence),
        }


class Failure(msgspec.Struct, frozen=True):
    """Why a stream failed. A value, so that it can be stored with the log and read by other processes."""

    reason: str
    message: str
    last_sequence: int
    """The last sequence of the log when it was sealed."""
    usage: Usage
    facts: dict[str, str] = {}
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: TokenwireError, *, last_sequence: int, usage: Usage) -> Failure:
        """Return the failure of a stream that ended with an error."""
        return cls(
            error.reason, str(error), last_sequence, usage, error.facts(), error.retry_after_s
        )


class StreamFailed(TokenwireError):
    """The error of every reader that reaches the end of a failed stream. Its reason is the stream's."""

    def __init__(self, stream_id: str, failure: Failure) -> None:
        self.reason = failure.reason
        self.retry_after_s = failure.retry_after_s
        self._facts = failure.facts
        self.at = StreamPosition(stream_id, failure.last_sequence, failure.usage)
        super().__init__(failure.message)

    def facts(self) -> dict[str, str]:
        return self._facts
