"""Errors of requests to providers."""

from __future__ import annotations

from .base import TokenwireError


class UpstreamError(TokenwireError):
    """The provider failed, or could not be reached.

    `provider_text` is what the provider wrote, for the log only. `error_type`, `error_code` and `field` are
    the provider's names for the kind of error and the invalid field; they reach the caller. So does
    `provider_message`: a redacted text, only for requests that the caller can correct. `requested_delay_s`
    is the delay that the provider itself named; `retry_after_s` is the delay that callers get.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        error_type: str = "",
        error_code: str = "",
        field: str = "",
        provider_message: str = "",
        provider_text: str = "",
        retry_after_s: float | None = None,
        requested_delay_s: float | None = None,
        limit_name: str = "",
    ) -> None:
        self.provider = provider
        self.status = status
        self.error_type = error_type
        self.error_code = error_code
        self.provider_message = provider_message
        self.field = field
        self.provider_text = provider_text
        self.retry_after_s = retry_after_s
        self.requested_delay_s = requested_delay_s
        self.limit_name = limit_name
        super().__init__(message)

    def facts(self) -> dict[str, str]:
        facts = {"provider": self.provider}
        if self.limit_name:
            facts["limit_name"] = self.limit_name
        if self.status is not None:
            facts["provider_status"] = str(self.status)
        if self.error_type:
            facts["provider_error_type"] = self.error_type
        if self.error_code:
            facts["provider_error_code"] = self.error_code
        if self.field:
            facts["provider_field"] = self.field
        if self.provider_message:
            facts["provider_message"] = self.provider_message
        return facts


class UpstreamRejected(UpstreamError):
    reason = "UPSTREAM_REJECTED"


class ContextTooLong(UpstreamError):
    """The request does not fit into the model's context window. Token counts are None if unknown."""

    reason = "CONTEXT_TOO_LONG"
    input_tokens: int | None = None
    limit_tokens: int | None = None

    def facts(self) -> dict[str, str]:
        facts = super().facts()
        if self.input_tokens is not None:
            facts["input_tokens"] = str(self.input_tokens)
        if self.limit_tokens is not None:
            facts["limit_tokens"] = str(self.limit_tokens)
        return facts


class UpstreamAuth(UpstreamError):
    reason = "UPSTREAM_AUTH"
    is_out_of_credit: bool = False
    """Whether the provider accepts the key, and the account has no credit or quota left."""
    is_own_key: bool = False
    """Whether the key is the tenant's own, and not the server's."""

    def facts(self) -> dict[str, str]:
        return super().facts() | ({"key_owner": "tenant"} if self.is_own_key else {})


class UpstreamRateLimited(UpstreamError):
    reason = "UPSTREAM_RATE_LIMITED"


class UpstreamUnavailable(UpstreamError):
    reason = "UPSTREAM_UNAVAILABLE"


class UpstreamBroken(UpstreamError):
    reason = "UPSTREAM_BROKEN"


class UpstreamStalled(UpstreamError):
    reason = "UPSTREAM_STALLED"
