"""Errors of the provider, and of the model's answer."""

from __future__ import annotations

from .base import Retry, TokenwireError


class UpstreamError(TokenwireError):
    """The provider, or the connection to it, failed. `metadata["provider"]` names the provider.

    What the provider refuses because of the request is a `RequestError`.
    """


class UpstreamAuth(UpstreamError):
    """The provider refused the operator's key or account."""


class UpstreamRateLimited(UpstreamError):
    """The provider's rate limit is reached."""

    _retry = Retry.YES
    _ends_before_content = True


class UpstreamUnavailable(UpstreamError):
    """The provider is unreachable, or failed before the first token.

    If `retry_after_s` is None, a retry does not help: the operator of the server must act.
    """

    _retry = Retry.IF_RETRY_INFO
    _ends_before_content = True


class UpstreamBroken(UpstreamError):
    """The provider failed after the first token. The answer is incomplete."""


class UpstreamStalled(UpstreamError):
    """The provider sent nothing for too long after the first token. The answer is incomplete."""


class InvalidAnswer(UpstreamError):
    """The answer is not one JSON document, or does not follow the request's schema.

    `violations` lists what is wrong, with the place in the answer as a JSON Pointer. The error of `chat` has
    neither violations nor the text: `resume(error.stream_id)` reads the answer.
    """

    text: str = ""
    """The answer, if it was read from its beginning."""
