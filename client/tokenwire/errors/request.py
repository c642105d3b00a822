"""Errors that the caller has to correct: in the request, the key, or the id or cursor of a stream."""

from __future__ import annotations

from .._int64 import parse_count, parse_int64
from .base import TokenwireError


class RequestError(TokenwireError):
    """The request cannot be answered as it is. The caller has to change it."""


class InvalidRequest(RequestError):
    """Fields of the request are invalid. `violations` lists all of them."""


class UnknownModel(RequestError):
    """The provider, alias or model is unknown. `metadata["nearest"]` has the most similar known names."""


class BudgetExceeded(RequestError):
    """The estimate for the request exceeds its own budget. Nothing was sent to a provider."""

    @property
    def limit(self) -> str:
        """Exceeded field of the budget: `max_cost_microusd` or `max_input_tokens`. Empty: not reported."""
        return self.metadata.get("limit", "")

    @property
    def allowed(self) -> int | None:
        """Value of that field. None: not reported."""
        return parse_int64(self.metadata.get("allowed"))

    @property
    def estimated(self) -> int | None:
        """Estimate for the input of the request alone. None: not reported."""
        return parse_int64(self.metadata.get("estimated"))


class ContextTooLong(RequestError):
    """The request does not fit into the model's context window. Shorten it and try again."""

    @property
    def provider_message(self) -> str:
        """The provider's own text, at most 1 KiB. Empty: not reported."""
        return self.metadata.get("provider_message", "")

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the request. None: not reported."""
        return parse_count(self.metadata.get("input_tokens"))

    @property
    def limit_tokens(self) -> int | None:
        """Size of the context window, in tokens. None: not reported."""
        return parse_count(self.metadata.get("limit_tokens"))


class UpstreamRejected(RequestError):
    """The provider refused the request. `metadata["provider"]` names the provider."""

    @property
    def provider_message(self) -> str:
        """The provider's own text, at most 1 KiB. Empty: not reported."""
        return self.metadata.get("provider_message", "")


class RequestIdReused(RequestError):
    """Another request has started a stream with this `request_id`."""


class StreamNotFound(RequestError):
    """The stream is unknown, expired, deleted, or belongs to another tenant."""


class ResumePointError(RequestError):
    """The stream cannot be read from this cursor."""

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest stored event: resume after the one before it. 0: not reported."""
        return parse_count(self.metadata.get("earliest_sequence")) or 0

    @property
    def latest_sequence(self) -> int:
        """Sequence of the newest event. 0: not reported."""
        return parse_count(self.metadata.get("latest_sequence")) or 0


class ResumePointExpired(ResumePointError):
    """The events after the cursor are no longer stored."""


class ResumePointAhead(ResumePointError):
    """The cursor is after the newest event of the stream."""


class AnswerTooLarge(RequestError):
    """The answer does not fit into the response of `chat`. Resume the stream `stream_id` to read it."""

    _is_resumable = True

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest stored event. Above 1: the beginning is lost. 0: not reported."""
        return parse_count(self.metadata.get("earliest_sequence")) or 0


class AccessError(TokenwireError):
    """The key does not allow the call."""


class Unauthenticated(AccessError):
    """The key is missing, unknown, expired or revoked. The message never contains it."""


class PermissionDenied(AccessError):
    """The key may not call this model."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.metadata.get("model", "")
