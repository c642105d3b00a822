"""One generation: its log, its readers, and the producer that feeds it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import msgspec

from ..errors import (
    ResumePointAhead,
    ResumePointExpired,
    ServerStopped,
    StreamFailure,
    TokenwireError,
)
from ..events import Finished, Usage
from ..pricing.estimate import Estimate
from ..providers.base import Route
from ..request import ChatRequest, Delivery
from ..routing.cost_limit import CostLimit
from ..streamlog.base import StreamLog
from ..tenants.caller import Caller
from ..tenants.limits import Lease
from ..tenants.spend import SpendHold
from .reader import Reader


class Keeper(Protocol):
    """Who keeps a stream, and is told what becomes of it. Each is one synchronous step."""

    def reader_joins(self) -> None:
        """A reader joins. Raises Overloaded, and then it does not."""
        ...

    def reader_left(self, stream: Stream) -> None:
        """A reader left."""
        ...

    def ended(self, stream: Stream) -> None:
        """Its log is sealed. Called once."""
        ...


NOTHING = Usage(input_tokens=0, output_tokens=0, cost_microusd=0)
"""What a stream used for which no provider worked. That costs nothing, whatever the price."""


class Progress(msgspec.Struct, frozen=True):
    """How far a stream has come, or came."""

    usage: Usage = NOTHING
    attempts: int = 0
    """Upstreams that were opened."""
    ttft_s: float | None = None
    model: str = ""
    """That served, as the provider calls it."""
    provider_response_id: str = ""


class Production(Protocol):
    """What a stream asks of its producer."""

    def usage(self) -> Usage:
        """Used so far."""
        ...

    def progress(self) -> Progress:
        """That, and the rest of what is known so far."""
        ...

    def seal_interrupted(self) -> None:
        """Seal the log as a stream ends whose producer was cancelled."""
        ...


class Stream:
    """One generation of one tenant. Belongs to one event loop.

    Its producer is a task that the keeper owns: no RPC can interrupt it half-way. It is cancelled,
    once: when the last reader left (and `retention.linger_s` has passed), when a caller says so, or
    when the server stops. It then closes the upstream and seals the log.
    """

    __slots__ = (
        "_interrupted",
        "_keeper",
        "_lease",
        "_linger",
        "_producer",
        "_production",
        "_progress",
        "_readers",
        "_spend",
        "body_hash",
        "cache",
        "cost_limit",
        "created_time",
        "deleted",
        "end_time",
        "estimate",
        "from_cache",
        "id",
        "interruption",
        "key_prefix",
        "labels",
        "log",
        "model",
        "model_asked",
        "opened",
        "provider",
        "request_id",
        "retention",
        "tenant",
        "time_limit_s",
    )

    def __init__(
        self,
        id: str,
        caller: Caller,
        log: StreamLog,
        keeper: Keeper,
        request: ChatRequest,
        route: Route,
        estimate: Estimate,
        *,
        time_limit_s: float,
        lease: Lease | None = None,
        spend: SpendHold | None = None,
    ) -> None:
        self.id = id
        self.tenant = caller.tenant
        self.key_prefix = caller.key_prefix
        """Of the key that began it. Empty: none was needed."""
        self.log = log
        self.time_limit_s = time_limit_s
        """How long it may take. Then it finishes with TIME_LIMIT."""
        self.estimate = estimate
        """What it was expected to take, and what it is counted and priced with."""
        self.cost_limit: CostLimit | None = None
        """What it may cost. None: nothing limits that."""
        if estimate.prices is not None and (
            spend is not None or request.budget.max_cost_microusd is not None
        ):
            self.cost_limit = CostLimit(estimate.prices, request.budget.max_cost_microusd, spend)
        self.provider = route.provider.name
        self.model = route.model
        """As that provider names it."""
        # Of the request only what outlives it: prompts can be large.
        self.model_asked = request.model
        self.labels = request.labels
        self.retention = request.retention
        self.cache = request.cache
        self.request_id = request.request_id
        self.body_hash = request.body_hash
        self.opened = time.monotonic()
        """When it was accepted."""
        self.created_time = time.time()
        """The same in seconds since the epoch."""
        self.end_time: float | None = None
        """None while it is open. As long after `created_time` as it took, also when the machine's clock
        was set meanwhile."""
        self.from_cache = False
        """A replay of an earlier answer."""
        self.deleted = False
        """Its content was forgotten at a caller's wish."""
        self.interruption: TokenwireError | None = None
        """Why the producer was cancelled, when nobody wished it."""
        self._keeper = keeper
        self._lease = lease
        self._spend = spend
        self._readers: set[Reader] = set()
        self._interrupted = False
        self._linger: asyncio.TimerHandle | None = None
        self._producer: asyncio.Task[None] | None = None
        self._production: Production | None = None
        self._progress = Progress()  # when nothing produces it

    @property
    def begun(self) -> bool:
        """It has a producer, or was complete from the beginning."""
        return self._producer is not None or self.log.sealed

    @property
    def reader_count(self) -> int:
        """Readers it has now."""
        return len(self._readers)

    def usage(self) -> Usage:
        """What it used so far."""
        return self._progress.usage if self._production is None else self._production.usage()

    def progress(self) -> Progress:
        """How far it has come, or came."""
        return self._progress if self._production is None else self._production.progress()

    def finish(self, event: Finished) -> None:
        """Seal the log with a deliberate end, unless it is sealed."""
        if self.log.finish(event):
            self._end()

    def fail(self, error: TokenwireError) -> None:
        """Seal the log with an error, which tells what was used, unless it is sealed."""
        self.tell_usage(error, self.log.last_sequence)
        # It is kept as long as the log: without the frames that led to it.
        error.__cause__ = error.__context__ = None
        if self.log.fail(error.with_traceback(None)):
            self._end()

    def tell_usage(self, error: TokenwireError, last_sequence: int) -> None:
        """Say in an error where the stream stands, once it has begun to answer."""
        if error.at is None and self.log.last_sequence > 1:
            error.at = StreamFailure(self.id, last_sequence, self.usage())

    def produced_by(self, producer: asyncio.Task[None], production: Production) -> None:
        """Hand over the task that produces this stream; called at most once."""
        self._producer = producer
        self._production = production
        producer.add_done_callback(self._produced)
        if self._interrupted:
            producer.cancel()

    def join(self, after_sequence: int = 0, delivery: Delivery = Delivery()) -> Reader:  # noqa: B008  # frozen
        """A new reader at a cursor. Leave it by leaving its block.

        Raises ResumePointAhead, ResumePointExpired, Overloaded.
        """
        earliest, latest = self.log.earliest_sequence, self.log.last_sequence
        if after_sequence > latest:
            raise ResumePointAhead(after_sequence, earliest=earliest, latest=latest)
        if after_sequence < earliest - 1:
            raise ResumePointExpired(after_sequence, earliest=earliest, latest=latest)
        self._keeper.reader_joins()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        reader = Reader(self, after_sequence, delivery)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader goes; idempotent. After the last one the generation ends as its retention says."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if not self._readers and not self.log.sealed:
            if self.retention.linger_s is None:
                self.cancel()
            else:
                loop = asyncio.get_running_loop()
                self._linger = loop.call_later(self.retention.linger_s, self.cancel)
        self._keeper.reader_left(self)

    def cancel(self) -> None:
        """End the generation: it finishes with CANCELLED. Idempotent; without effect after the end."""
        self._interrupt(None)

    def stop(self) -> None:
        """The server stops: readers get SERVER_STOPPED after what the log holds."""
        self._interrupt(ServerStopped("the stream ended with its server"))

    def _interrupt(self, why: TokenwireError | None) -> None:
        # Once: a second cancellation would interrupt the closing of the upstream.
        if self._interrupted or self.log.sealed:
            return
        self._interrupted = True
        self.interruption = why
        if self._producer is not None:
            self._producer.cancel()

    def _produced(self, _: asyncio.Task[None]) -> None:
        if self._production is not None:
            # Cancelled before its first step, it could not seal the log itself.
            self._production.seal_interrupted()
        self._producer = None

    def _end(self) -> None:
        self.end_time = self.created_time + time.monotonic() - self.opened
        # What stays as long as the log shall be small.
        self._progress = self._final_progress()
        self._production = self.cost_limit = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        usage = self._progress.usage
        if self._lease is not None:
            self._lease.settle(usage.input_tokens + usage.output_tokens)
            self._lease = None
        if self._spend is not None:
            self._spend.settle(usage.cost_microusd or 0)
            self._spend = None
        self._keeper.ended(self)
        self.labels = {}  # the record has them

    def _final_progress(self) -> Progress:
        progress = self.progress()
        finished = self.log.finished
        if self._production is None and finished is not None:  # a replay: it says how it went
            return Progress(
                finished.usage,
                ttft_s=finished.timings.ttft_s,
                model=finished.model,
                provider_response_id=finished.provider_response_id,
            )
        return progress
