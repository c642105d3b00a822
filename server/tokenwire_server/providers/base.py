"""The interfaces of providers, their requests, and their wire formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from ..config import ProviderConfig
from ..errors import UpstreamError
from ..events import Delta
from ..request import ChatRequest, Violation
from .decode.base import Complete, Decoder
from .slots import ConnectionSlots


class Dialect(Protocol):
    """One wire format, pure: how a request is written, and what reads the answer.

    A dialect has no state. The differences between servers of one dialect are data, in
    `ProviderConfig.quirks`.
    """

    path: str
    """Path below the provider's base URL, such as `/chat/completions`."""

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        """Yield a violation for each part of the request that this provider does not support, with its path.

        There may be very many: consume only as many as are reported.
        """
        ...

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,
    ) -> dict[str, Any]:
        """Return the request's JSON body. Values may be `msgspec.Raw`: JSON that must not be re-encoded.

        `request` has passed `check`. `max_output_tokens` is the model's limit if the configuration has it,
        for providers that require a limit.
        """
        ...

    def decoder(self, config: ProviderConfig, provider: str = "") -> Decoder:
        """Return a decoder for one answer of the provider with this name. See `state`."""
        ...

    def events_of(self, answer: Mapping[str, Any]) -> bytes | None:
        """Return a whole answer as the stream that its decoder reads. None if the object is not an answer."""
        ...


@runtime_checkable
class CountingDialect(Dialect, Protocol):
    """A wire format with an endpoint that counts a request's input tokens without running it."""

    count_path: str
    """Path below the provider's base URL, such as `/v1/messages/count_tokens`."""

    def count_body(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the body with which the endpoint counts a chat's input, made from the chat's body.

        Returns None if the request has input that the endpoint does not accept.
        """
        ...


class Upstream(Protocol):
    """One request to a provider, and its answer.

    An async context manager: entering sends the request and waits for the head of the answer, leaving closes
    the connection at once unless the answer was read to its end. So does a cancellation at any point, also
    while it connects. Entering raises UpstreamError, ProviderBusy if no connection is free, and UnknownModel
    if the provider does not know the model.
    """

    @property
    def is_sent(self) -> bool:
        """Whether the request was sent: before that, no provider has anything to bill."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether a part of the answer has arrived and not been returned: the next `read` need not wait."""
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

    async def push(self, take: Callable[[list[Delta]], bool]) -> None:
        """Pass the deltas of each arrival to `take` as it arrives: without the switch to a task that `read`
        needs. `take` must not block.

        Returns when `take` returns False or the answer has ended, and when `read` must be called when
        more than a few deltas arrive at once. It may return immediately. Raises what `take` raises.
        """
        ...


class Provider(Protocol):
    """One configured provider."""

    name: str

    @property
    def slots(self) -> ConnectionSlots:
        """The open requests to this provider."""
        ...

    def check(self, request: ChatRequest) -> Iterator[Violation]:
        """Yield a violation for each part of the request that this provider does not support. See Dialect."""
        ...

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> Upstream:
        """Return a request to this provider, which is sent when its block is entered."""
        ...

    async def count_input_tokens(self, request: ChatRequest, model: str) -> int | None:
        """Return the request's input tokens, including cached ones, as its endpoint counts them.

        Returns None if there is no such endpoint, or if it does not accept all input of the request. The
        bill may differ a little: Anthropic calls its count an estimate.

        `request` has passed `check`. Raises UpstreamError, ProviderBusy, or UnknownModel if the provider does
        not know the model. Waits at most `provider.COUNT_S`, and does not retry. Cancellation closes the
        connection at once.
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
    """The model's own limit for its first content. 0: none. None: `Limits.upstream_first_content_s` applies,
    unless the model reasons."""
    drip_s: float | None = None
    """The model's own limit from the head of its answer to its first content. 0: none. None:
    `Limits.upstream_drip_s` applies."""
    idle_s: float | None = None
    """The model's own limit between two arrivals. None: `Limits.upstream_idle_s` applies."""
    reasons: bool = False
    """Whether the model may think for long before its first content."""
    name: str = ""
    """The name of the model in the request or the configuration: `provider/model`, or an alias."""
    key_owner: str = ""
    """The tenant whose own key is sent. Empty: the server's key is sent."""

    @property
    def account(self) -> str:
        """The provider and the owner of the key. Rate limits and quotas are those of an account."""
        name = self.provider.name
        return f"{name}/{self.key_owner}" if self.key_owner else name

    def __str__(self) -> str:
        return f"{self.provider.name}/{self.model}"
