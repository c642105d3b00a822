"""The enums of the API as Python enums: short names, and the numbers of `tokenwire.v1`.

A field of an event or another protobuf message is a plain number. It is equal to the member with that number.
To get its name, convert it: `str(FinishReason(event.finished.reason))` is "STOP".
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Self


class ApiEnum(IntEnum):
    """An enum of the API. `str()` is the name, such as "STOP".

    A newer server may send a number that this version does not recognize. Its member is created on demand:
    `FinishReason(99)` has the name "UNKNOWN_99". Compare such members with `==`, not with `is`.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    @property
    def is_known(self) -> bool:
        """Whether this version recognizes the number."""
        return self._value_ in type(self)._value2member_map_

    def __str__(self) -> str:
        return self._name_

    def __format__(self, format_spec: str) -> str:
        return format(self._name_, format_spec)

    if TYPE_CHECKING:  # type checkers refuse to compare it with the numbers of protobuf otherwise

        def __eq__(self, other: object) -> bool: ...
        def __hash__(self) -> int: ...


class FinishReason(ApiEnum):
    """Why a stream ended deliberately. `tokenwire/v1/event.proto` describes the reasons."""

    UNSPECIFIED = 0
    """The stream has not finished, as far as it was read."""
    STOP = 1
    STOP_SEQUENCE = 2
    MAX_TOKENS = 3
    TOOL_CALLS = 4
    CONTENT_FILTER = 5
    REFUSAL = 6
    PAUSED = 7
    TIME_LIMIT = 8
    CANCELLED = 9
    BUDGET = 10
    CONTEXT_FULL = 11
    INVALID_TOOL_CALLS = 12
    OTHER = 13


class NoticeKind(ApiEnum):
    """What a notice reports: `event.notice.kind`. `tokenwire/v1/event.proto` describes the kinds."""

    UNSPECIFIED = 0
    RETRYING = 1
    FALLBACK = 2
    DRAINING = 3
    MODEL_CHANGED = 4
    CAUGHT_UP = 5


class Role(ApiEnum):
    """The author of a message: `message.role`."""

    UNSPECIFIED = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TOOL = 4


class StreamState(ApiEnum):
    """The state of a stream at the server: `stream_info.state`."""

    UNSPECIFIED = 0
    RUNNING = 1
    FINISHED = 2
    FAILED = 3


class UsageOutcome(ApiEnum):
    """How the stream of a usage record ended: `record.outcome`. `tokenwire/v1/usage.proto` describes it."""

    UNSPECIFIED = 0
    OPEN = 1
    FINISHED = 2
    CANCELLED = 3
    TIME_LIMIT = 4
    BUDGET = 5
    FAILED = 6
    LOST = 7
