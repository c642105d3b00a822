"""The base class of the errors of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import grpc

from tokenwire.v1.usage_pb2 import Usage

_SHOWN = (  # by `repr`, if they are set
    "reason",
    "retry_after_s",
    "request_id",
    "stream_id",
    "last_sequence",
    "metadata",
    "violations",
)


class Retry(Enum):
    """Whether the same request may succeed later, as documented for each reason."""

    YES = "Yes"
    IF_RETRY_INFO = "If RetryInfo"
    NO = "No"


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field of a request, or one invalid value of a JSON answer."""

    field: str
    """Path of the field, such as `messages[0].parts[2].image.media_type`. For an answer: a JSON Pointer."""
    description: str


class TokenwireError(Exception):
    """Base class of the errors of a call.

    `str(error)` is one line: the reason, or the code if there is no reason, and the message. Errors can be
    copied and pickled.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    _retry: ClassVar[Retry] = Retry.NO
    _is_resumable: ClassVar[bool] = False
    _ends_before_content: ClassVar[bool] = False
    """With a stream_id: the stream has failed, before its first content."""

    code: grpc.StatusCode
    reason: str
    """Name of an ErrorReason without its prefix. Empty if no Tokenwire server sent one."""
    message: str
    metadata: Mapping[str, str]
    """Facts for programs. ErrorReason documents them for each reason."""
    request_id: str
    """The `request_id` of the request. Empty if it had none."""
    stream_id: str
    """Id of the stream that failed. Empty if none had started."""
    last_sequence: int
    """Sequence of the last event of the stream. 0: none is known. If the error ends this reader but not the
    stream, it is the last event that this reader received: the cursor to resume after."""
    usage: Usage | None
    """Usage of the stream until it failed. None: unknown, or no stream had started."""
    retry_after_s: float | None
    """Seconds to wait before another attempt. None: not reported."""
    violations: tuple[Violation, ...]
    """Every invalid field of the request, if the request is invalid. See also `InvalidAnswer`."""
    attempts: int
    """How often the client has sent the request. Above 1: it was retried, see `AsyncClient`."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        stream_id: str = "",
        last_sequence: int = 0,
        usage: Usage | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.request_id = request_id
        self.stream_id = stream_id
        self.last_sequence = last_sequence
        self.usage = usage
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)
        self.attempts = 1

    @property
    def is_transient(self) -> bool:
        """Whether the problem may be temporary: it may end by itself, for example after `retry_after_s`.

        It does not say whether a retry is safe: see `retryable`.
        """
        if (
            type(self) is TokenwireError
        ):  # an unknown reason of a newer server is judged by its code
            is_unavailable = self.code is grpc.StatusCode.UNAVAILABLE
            return bool(self.reason) and is_unavailable and self.retry_after_s is not None
        return self._retry is Retry.YES or (
            self._retry is Retry.IF_RETRY_INFO and self.retry_after_s is not None
        )

    @property
    def retryable(self) -> bool:
        """Whether a retry, now or after `retry_after_s`, may succeed and is safe.

        Safe means that no second generation starts while the first one may still run, and that nothing is
        paid for twice. So it is False after the first content (resume, or start a new stream), and if the
        failed stream has used anything.
        """
        if not self.is_transient:
            return False
        return not self.stream_id or (self._ends_before_content and self._has_used_nothing())

    @property
    def resume_after(self) -> int | None:
        """The cursor to resume after: `client.resume(error.stream_id, error.resume_after)`.

        None if the stream cannot be resumed, or none had started. Whether the generation continues without a
        reader depends on the stream's `retention`. If it does not, the stream ends with CANCELLED.
        """
        return self.last_sequence if self._is_resumable and self.stream_id else None

    def _has_used_nothing(self) -> bool:
        used = self.usage
        if used is None or used.estimated:  # the provider has accepted the request
            return False
        counts = (used.input_tokens, used.output_tokens, used.cost_microusd)
        return not any(counts) and not any(used.server_tool_counts.values())

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name in _SHOWN if (value := getattr(self, name))]
        return f"{type(self).__name__}({', '.join([repr(self.message), f'code={self.code.name}', *shown])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.__dict__.copy())


def _restored(kind: type[TokenwireError], message: str, state: dict[str, Any]) -> TokenwireError:
    """Return a copied or unpickled error."""
    error = kind(message)
    error.__dict__.update(state)
    return error
