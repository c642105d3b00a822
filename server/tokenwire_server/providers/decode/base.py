"""The interface of decoders: bytes of a provider's answer in, entries of the log out. No I/O, no clock.

A decoder receives the body in pieces of any size; the result does not depend on where the pieces are cut.
It raises nothing, whatever a provider sends. At the end of the answer it sets `end`: to `Complete` if the
provider's end marker arrived, and to an UpstreamError if the answer is broken. Deltas before the end are
returned in both cases.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...errors import UpstreamError
from ...events import Delta, FinishReason, Refusal, Usage

MAX_NAME_CHARS = 256
"""Maximum number of characters that are kept of a provider's model name and answer id."""


class Complete(msgspec.Struct, frozen=True):
    """The end of an answer that the provider reported as complete."""

    reason: FinishReason
    provider_reason: str = ""
    """The provider's own name of the reason, at most MAX_NAME_CHARS."""
    refusal: Refusal | None = None


class Decoder(Protocol):
    """Decoder of one answer."""

    end: Complete | UpstreamError | None
    """How the answer ended. None until it ends; set once."""
    usage: Usage | None
    """The provider's latest figures. None if it has not sent any."""
    response_id: str
    """The provider's id of the answer. Empty if it has not sent one."""
    model: str
    """Name of the model that answers, as the provider reports it. Empty if it has not sent one."""

    @property
    def problem(self) -> str:
        """What is wrong with the answer although it can be used, for the operator's log. It contains no text
        of the provider. Empty if nothing is.
        """
        ...

    def feed(self, data: bytes) -> list[Delta]:
        """Decode the next bytes. Return the deltas that they complete, in order; none once `end` is set."""
        ...

    def eof(self) -> list[Delta]:
        """Handle the end of the body. Sets `end` to UpstreamBroken if the answer is not complete."""
        ...
