"""Errors of the server. The operator has to act, unless the problem is temporary."""

from __future__ import annotations

from .base import Retry, TokenwireError


class ServerError(TokenwireError):
    """The server cannot answer now, or has failed. If this is not temporary, the operator has to act."""


class Overloaded(ServerError):
    """The server has no capacity left."""

    _retry = Retry.YES
    _is_resumable = True


class StoreUnavailable(ServerError):
    """The server cannot reach its database, or the log of streams that servers share."""

    _retry = Retry.YES
    _is_resumable = True


class ModerationUnavailable(ServerError):
    """The server could not check the request with a moderation service. Nothing was sent to a provider."""

    _retry = Retry.YES


class Draining(ServerError):
    """This server is about to stop. It has not started the request: send it to another server. A stream
    that was already open continues: resume it on another server.
    """

    _retry = Retry.YES
    _is_resumable = True


class ServerStopped(ServerError):
    """The stream ended because its server stopped."""


class ProducerLost(ServerError):
    """The server that generated the stream is gone, or cut off from the log that servers share. The answer is
    incomplete.
    """


class AnswerUnchecked(ServerError):
    """The server could not check the rest of the answer with a moderation service. The answer is incomplete,
    and billed.
    """


class ResumeDisabled(ServerError):
    """The call needs the id of a stream, and the setting `resume` of the server is off."""


class InternalError(ServerError):
    """A bug in Tokenwire. `metadata["error_id"]` is in the server's log."""
