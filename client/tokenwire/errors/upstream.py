"""Errors of the provider."""

from __future__ import annotations

from .base import Retry, TokenwireError


class UpstreamError(TokenwireError):
    """The provider, or the connection to it, failed. `metadata["provider"]` names the provider.

    If the provider refuses the request because of its content, the error is a `RequestError` instead.
    """


class UpstreamAuth(UpstreamError):
    """The provider refused the key or the account, or the account has no credit left."""


class UpstreamRateLimited(UpstreamError):
    """The provider's rate limit is reached."""

    _retry = Retry.YES
    _ends_before_content = True


class UpstreamUnavailable(UpstreamError):
    """The provider is unreachable, or failed before the first token.

    Without `retry_after_s`, a retry has no effect: the operator of the server must act.
    """

    _retry = Retry.IF_RETRY_INFO
    _ends_before_content = True


class UpstreamBroken(UpstreamError):
    """The provider failed after the first token. The answer is incomplete."""


class UpstreamStalled(UpstreamError):
    """The provider sent nothing for too long after the first token. The answer is incomplete."""
