"""What every decoder is: bytes of a provider's answer in, entries of the log out. No I/O, no clock.

A decoder is fed the body as the network cuts it; where it is cut never matters. It never raises for
what a provider sends: an answer ends by setting `end`, to `Complete` when the provider's own end
marker came, and to an UpstreamError when the answer is broken. What came before the end is returned
all the same.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...errors import UpstreamError
from ...events import Delta, FinishReason, Usage

MAX_NAME_CHARS = 256
"""Most characters that are kept of a provider's names for its model and its answer."""


class Complete(msgspec.Struct, frozen=True):
    """The provider said that the answer is whole."""

    reason: FinishReason


class Decoder(Protocol):
    """One answer of one provider, while it is being read."""

    end: Complete | UpstreamError | None
    """How the answer ended; None while it goes on. Set once, never changed."""
    usage: Usage | None
    """The provider's latest figures; None until it gave some. Zero is not missing."""
    response_id: str
    """The provider's id of the answer; empty until it gave one."""
    model: str
    """The model that served, as the provider calls it; empty until it said so."""

    def feed(self, data: bytes) -> list[Delta]:
        """Take the next bytes; return the deltas they complete, in order. Empty once `end` is set."""
        ...

    def eof(self) -> list[Delta]:
        """The body ended. Sets `end` to UpstreamBroken unless the answer was complete."""
        ...
