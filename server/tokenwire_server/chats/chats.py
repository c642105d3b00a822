"""The use cases of chats: open, resume, find, cancel, delete, count."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from ..errors import BudgetExceeded, InvalidRequest, StreamFailed
from ..events import NO_USAGE
from ..pricing.estimate import Estimate
from ..request import ChatRequest, Delivery
from ..routing.plan import Plan
from ..streams.admitted import AdmittedChat
from ..streams.cache import ResponseCache
from ..streams.directory import StreamDirectory
from ..streams.handle import StreamHandle
from ..streams.host import StreamHost
from ..streams.reader import Reader
from ..tenants.caller import Caller
from ..tenants.limits import Allowance
from ..tenants.spend import SpendLimiter
from .admission import Admission
from .screening import Screening
from .violations import Violations


class OpenChat:
    """A stream and its first reader. An async context manager, see `Chats.open`."""

    __slots__ = ("_host", "_opening", "allowances", "reader", "stream")

    stream: StreamHandle
    reader: Reader
    allowances: tuple[Allowance, ...]
    """What is left of the caller's limits. Empty if the stream was already open."""

    def __init__(self, host: StreamHost, opening: Callable[[], Awaitable[Opened]]) -> None:
        self._host = host
        self._opening: Callable[[], Awaitable[Opened]] | None = opening

    def start(self) -> None:
        """Start to generate. Idempotent."""
        self._host.start(self.stream)

    async def __aenter__(self) -> Self:
        opening, self._opening = self._opening, None
        if opening is None:
            raise RuntimeError("the chat was opened already")
        running = opening()
        del opening  # it refers to the request
        self.stream, self.reader, self.allowances = await running
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.reader.__exit__(exc_type, exc, tb)
        # Without readers and without a linger, the stream has ended: then this does nothing.
        self.start()


Opened = tuple[StreamHandle, Reader, tuple[Allowance, ...]]


class TokenCount(msgspec.Struct, frozen=True):
    """What a request would use and cost."""

    plan: Plan
    estimate: Estimate
    exceeds_budget: bool
    """Whether the estimate exceeds the request's budget."""


class Chats:
    """Opens chats, and finds and ends their streams. Belongs to one event loop."""

    def __init__(
        self,
        admission: Admission,
        spend: SpendLimiter,
        directory: StreamDirectory,
        host: StreamHost,
        cache: ResponseCache,
        screening: Screening,
    ) -> None:
        self._admission = admission
        self._spend = spend
        self._directory = directory
        self._host = host
        self._cache = cache
        self._screening = screening

    def check_size(self, caller: Caller, byte_count: int) -> None:
        """Check the size of a request before it is parsed. Raises QuotaExhausted."""
        self._admission.check_size(caller, byte_count)

    def open(
        self,
        request: ChatRequest,
        caller: Caller,
        deadline: float | None,
        violations: Violations,
        delivery: Delivery,
    ) -> OpenChat:
        """Open the stream that answers a request, and join it: `async with chats.open(...) as chat`.

        It is the stream that an earlier request with the same id opened, or a replay of an earlier answer,
        or a new stream. Call `chat.start` in the block. Leaving the block leaves the stream. The generation
        starts at the end of the block at the latest, so that the stream ends in any case.

        `violations` are those found while the request was parsed. `deadline` is the caller's, a value of
        `time.monotonic`. `delivery` is how this reader wants to be served. Entering raises InvalidRequest,
        UnknownModel, PermissionDenied, QuotaExhausted, RequestIdReused, BudgetExceeded, RateLimited,
        TooManyStreams, Overloaded, Draining, StoreUnavailable; and ResumePointExpired if an earlier stream
        with the same id has dropped the beginning of its log. Cancelled while entering, it leaves nothing
        behind.
        """
        opening = partial(self._open, request, caller, deadline, violations, delivery)
        return OpenChat(self._host, opening)

    async def _open(
        self,
        request: ChatRequest,
        caller: Caller,
        deadline: float | None,
        violations: Violations,
        delivery: Delivery,
    ) -> Opened:
        plan = self._admission.plan(request, caller, violations, deadline)
        stream, allowances, is_new = await self._open_stream(request, plan, caller, deadline)
        reader = stream.join(0, delivery, reports_caught_up=not is_new, deadline=deadline)
        return stream, reader, allowances

    async def _open_stream(
        self, request: ChatRequest, plan: Plan, caller: Caller, deadline: float | None
    ) -> tuple[StreamHandle, tuple[Allowance, ...], bool]:
        """Return the stream, the caller's remaining limits, and whether the stream is new."""
        tenant, clear_count = caller.tenant, self._cache.clear_count
        async with self._directory.claim(request.request_id, request.body_hash, tenant) as found:
            if isinstance(found, StreamHandle):
                return found, (), False
            chat = await self._admission.reserve(request, plan, caller, deadline)
            try:
                chat = await self._screened(chat)
                cached = await self._cache.find(tenant, request.cache) if request.cache else None
                if self._cache.clear_count != clear_count:  # the plan may be out of date
                    request, cached = msgspec.structs.replace(request, cache=None), None
                    chat = msgspec.structs.replace(chat, request=request)
                allowances = (*chat.reservation.allowances, *self._spend.allowances(tenant))
                # From here to the reader's `join` nothing may wait: a stream without a reader would not end.
                return self._host.open(chat, cached, stream_id=found), allowances, True
            except BaseException:
                chat.reservation.release()
                raise

    async def _screened(self, chat: AdmittedChat) -> AdmittedChat:
        """Apply the rules for input. Raises InvalidRequest, Overloaded."""
        try:
            actions = await self._screening.screen(chat.request, chat.caller.tenant)
        except InvalidRequest:
            # Its tokens and its cost are given back. It counts as a request, so that trying out the rules is
            # limited.
            chat.reservation.settle(NO_USAGE, is_charged=False)
            raise
        return msgspec.structs.replace(chat, input_actions=actions) if actions else chat

    @asynccontextmanager
    async def resume(
        self,
        stream_id: str,
        caller: Caller,
        after_sequence: int,
        delivery: Delivery,
        *,
        deadline: float | None,
    ) -> AsyncIterator[Reader]:
        """Read a stream from a sequence on. Leaving the block leaves the stream.

        `deadline` is the caller's, a value of `time.monotonic`. Raises StreamNotFound, ResumePointAhead,
        ResumePointExpired, Overloaded; and StoreUnavailable for a stream of another process.
        """
        stream = await self._directory.find(stream_id, caller.tenant, after_sequence)
        with stream.join(
            after_sequence, delivery, reports_caught_up=True, deadline=deadline
        ) as reader:
            yield reader

    async def find(self, stream_id: str, caller: Caller) -> StreamHandle:
        """Return one of the caller's streams. Raises StreamNotFound, StoreUnavailable."""
        return await self._directory.find(stream_id, caller.tenant)

    async def cancel(self, stream_id: str, caller: Caller) -> StreamHandle:
        """End a generation for all its readers, and return the stream once it has ended.

        Raises StreamNotFound, StoreUnavailable. Cancellation does not undo it.
        """
        stream = await self.find(stream_id, caller)
        stream.cancel()
        await stream.log.wait_sealed()
        if stream.is_out_of_reach and stream.log.failure is not None:
            raise StreamFailed(stream_id, stream.log.failure)
        return stream

    async def delete(self, stream_id: str, caller: Caller) -> None:
        """End a generation, and drop its content and its cached answer.

        Raises StreamNotFound, StoreUnavailable.
        """
        stream = await self.cancel(stream_id, caller)
        # First, because another process cannot find the stream again once it is not stored.
        await self._cache.delete(stream.tenant, stream.id)
        await self._directory.delete_stored(stream)
        self._host.delete(stream)

    def keep_readable(self, stream: StreamHandle) -> None:
        """Keep a stream that has ended, and that has a reader, for at least the server's `log_ttl_s`."""
        self._host.keep_readable(stream)

    async def charge_count(self, caller: Caller) -> None:
        """Count one CountTokens call against the caller's limits. Raises RateLimited."""
        await self._admission.charge_request(caller)

    async def count(
        self, request: ChatRequest, caller: Caller, violations: Violations
    ) -> TokenCount:
        """Return what a request would use and cost. Starts no generation.

        Raises InvalidRequest, UnknownModel, PermissionDenied, QuotaExhausted, Overloaded; and UpstreamError
        if the provider counts the tokens.
        """
        # The deadline of this call does not apply to the chat, whose deadline is not known yet.
        plan = self._admission.plan(request, caller, violations)
        if request.asks_provider:  # which then gets the texts of the request
            await self._screening.screen(request, caller.tenant)
        estimate = await self._admission.preview(request, plan, caller)
        exceeds_budget = False
        try:
            estimate.check(request.budget, request.model)
        except BudgetExceeded:
            exceeds_budget = True
        return TokenCount(plan, estimate, exceeds_budget)
