"""What the rest of the house knows of a provider, and what a provider's wire format must supply."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from ..config import ProviderConfig
from ..errors import UpstreamError
from ..events import Delta
from ..request import ChatRequest, Violation
from .decode.base import Complete, Decoder


class Dialect(Protocol):
    """One wire format, pure: how a request is written, and what reads the answer.

    A dialect is a module or an object without state; what differs between servers that speak it is
    data, in `ProviderConfig.quirks`.
    """

    path: str
    """Path below the provider's base URL, such as `/chat/completions`."""

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        """Yield a violation for everything in the request that this provider cannot honour, with its path.

        There may be one for every part of a message: consume only as many as are reported.
        """
        ...

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,
    ) -> dict[str, Any]:
        """The request's JSON body. Values may be `msgspec.Raw`, for JSON that must not be re-encoded.

        `request` has passed `check`. `max_output_tokens` is the most the model gives, where the
        operator's configuration says so: for providers that demand a limit.
        """
        ...

    def decoder(self, config: ProviderConfig) -> Decoder:
        """A decoder for one answer."""
        ...


@runtime_checkable
class CountingDialect(Dialect, Protocol):
    """A wire format with an endpoint that counts a request's input tokens without running it."""

    count_path: str
    """Path below the provider's base URL, such as `/v1/messages/count_tokens`."""

    def count_body(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What the endpoint takes of a chat's body, so that it counts that very request.

        None when the request brings input that the endpoint cannot be told of.
        """
        ...


class Upstream(Protocol):
    """One request to a provider, and its answer.

    An async context manager: entering sends the request and waits for the head of the answer, leaving closes
    the connection at once unless the answer was read to its end. So does a cancellation at any point, also
    while it connects. Entering raises UpstreamError, or UnknownModel if the provider does not know the model.
    """

    @property
    def is_sent(self) -> bool:
        """Whether the request was sent: before that, no provider has anything to bill."""
        ...

    decoder: Decoder
    end: Complete | UpstreamError | None
    """How the answer ended, once all its deltas have been returned. None before that."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...

    async def read(self) -> list[Delta]:
        """Wait for the next bytes and return the deltas they complete, perhaps none.

        Each call does bounded work, and lets other tasks run when many bytes or deltas arrived at once.
        A broken connection sets `end`. After a cancellation, close the upstream: the rest of the answer
        is lost.
        """
        ...


class Provider(Protocol):
    """One configured provider."""

    name: str

    def check(self, request: ChatRequest) -> Iterator[Violation]:
        """Yield a violation for everything in the request that this provider cannot honour. See Dialect."""
        ...

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> Upstream:
        """Return a request to this provider, which is sent when its block is entered."""
        ...

    async def count_input_tokens(self, request: ChatRequest, model: str) -> int | None:
        """The request's input tokens, cached ones included, as the provider's own endpoint counts.

        None where there is no such endpoint, or none that can be told of all the request's input.
        What is billed may differ a little: Anthropic calls its count an estimate.
        `request` has passed `check`. Raises UpstreamError, or UnknownModel when the provider does
        not know the model; never waits longer than `upstream.COUNT_S`, never tries again.
        Cancelled, it closes the connection at once.
        """
        ...


class Route(msgspec.Struct, frozen=True):
    """A provider, and the name of a model there."""

    provider: Provider
    model: str
    """The model as the provider names it."""
    max_output_tokens: int | None
    """The most output tokens of the model, or None if the configuration does not say."""
    first_content_s: float | None = None
    """The model's own limit for its first content. None: `Limits.upstream_first_content_s` applies."""
    idle_s: float | None = None
    """The model's own limit between two arrivals. None: `Limits.upstream_idle_s` applies."""
