"""The generation of one stream, in the process that owns it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..config import Limits
from ..errors import (
    Failure,
    Overloaded,
    ServerStopped,
    TokenwireError,
    UnknownModel,
    UpstreamError,
)
from ..events import (
    NO_USAGE,
    Delta,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    Refusal,
    Started,
    Timings,
    Usage,
)
from ..pricing.estimate import Estimate
from ..providers.base import Route
from ..providers.decode.base import Complete
from ..request import CacheUse, ChatRequest
from ..routing.attempt import Attempt, AttemptEnd, caller_error
from ..routing.cost_limit import CostLimit
from ..routing.meter import total_usage
from ..routing.plan import Plan
from ..routing.retry import AttemptError, Retries
from ..telemetry import internal_fault
from ..tenants.caller import Caller
from ..tenants.reservation import Reservation
from .handle import StreamHandle

logger = logging.getLogger(__name__)


class AdmittedChat(msgspec.Struct, frozen=True):
    """A request, with everything that was decided before its stream is opened."""

    request: ChatRequest
    caller: Caller
    plan: Plan
    estimate: Estimate
    reservation: Reservation
    deadline: float | None = None
    """The caller's deadline, a value of `time.monotonic`, or None."""


class Progress(msgspec.Struct, frozen=True):
    """The state of a stream's generation so far, or at its end."""

    usage: Usage = NO_USAGE
    attempt_count: int = 0
    """Requests that were sent to providers."""
    provider: str = ""
    """The provider that served, or an empty string if there was no attempt."""
    has_head: bool = False
    """Whether the head of a provider's answer has arrived."""
    ttft_s: float | None = None
    first_text_s: float | None = None
    """Seconds to the first text: later than `ttft_s` if the model reasoned first."""
    model: str = ""
    """The model that served, as the provider names it."""
    provider_response_id: str = ""


class StreamObserver:
    """Base class of everything that follows streams: the ledger, the response cache, metrics.

    Each method is one synchronous step in the path of a stream, so it must not block. An exception is
    logged, and affects neither the stream nor other observers. Subclasses override what they need.
    """

    def opened(self, generation: Generation) -> None:
        """A stream was accepted. No provider has been contacted."""

    def attempt_started(self, generation: Generation, attempt: Attempt) -> None:
        """A request is about to be sent to a provider."""

    def attempt_failed(self, generation: Generation, attempt: Attempt, error: AttemptError) -> None:
        """The provider refused the request, or failed. Another attempt may follow."""

    def first_content(self, generation: Generation, attempt: Attempt) -> None:
        """The first content was appended to the log."""

    def ended(self, generation: Generation) -> None:
        """The log was sealed. `generation.progress()` is final. Called once."""


class Generation:
    """Runs the attempts of one stream's plan, appends their answer to the log, and seals it.

    Its task is the stream's producer. No RPC runs it, so no RPC can interrupt it half-way. It is cancelled
    at most once: when the last reader has left, on a caller's request, or when the server stops. It then
    closes the upstream and seals the log.

    An attempt that fails before the first content is repeated if `retries`, the latest deadline of the
    readers and the stream's time limit allow it. After the first content, nothing is sent again.

    At the end, the final progress is computed once, the log is sealed, and the observers are notified.
    """

    __slots__ = (
        "_attempt",
        "_attempt_count",
        "_cost_before_microusd",
        "_estimate",
        "_final",
        "_interruption",
        "_is_interrupted",
        "_limits",
        "_max_cost_microusd",
        "_observers",
        "_opened",
        "_pause_s",
        "_request",
        "_retries",
        "_task",
        "_time_limit_s",
        "_usage_before",
        "cache_use",
        "caller",
        "from_cache",
        "labels",
        "plan",
        "requested_model",
        "reservation",
        "stream",
    )

    def __init__(
        self,
        stream: StreamHandle,
        chat: AdmittedChat,
        limits: Limits,
        retries: Retries,
        observers: Iterable[StreamObserver] = (),
    ) -> None:
        request = chat.request
        self.stream = stream
        self.caller = chat.caller
        self.plan = chat.plan
        self.reservation = chat.reservation
        # Values that are needed after the request is dropped: prompts can be large.
        self.requested_model = request.model
        self.labels = request.labels
        self.cache_use: CacheUse | None = request.cache
        self.from_cache = False
        """Whether the stream replays an earlier answer."""
        self._request: ChatRequest | None = request
        """The request, as long as an attempt may follow: until the first content, or the last attempt."""
        self._max_cost_microusd = request.budget.max_cost_microusd
        self._estimate = chat.estimate
        self._limits = limits
        self._observers: Sequence[StreamObserver] = tuple(observers)
        self._opened = time.monotonic()
        self._time_limit_s = _time_limit_s(chat, limits, self._opened)
        self._attempt: Attempt | None = None
        self._attempt_count = 0
        self._usage_before = NO_USAGE
        """Usage of the attempts that have ended."""
        self._cost_before_microusd = 0
        """Cost of these attempts, as it is compared with limits."""
        self._pause_s: float | None = None
        """The pause after the attempt that failed last, or None if no attempt follows."""
        self._retries = retries
        self._task: asyncio.Task[None] | None = None
        self._is_interrupted = False
        self._interruption: TokenwireError | None = None
        """Why the task was cancelled, or None if a caller or the last reader ended the stream."""
        self._final: Progress | None = None
        stream.attach(self)

    def usage(self) -> Usage:
        """Return the usage so far."""
        if self._final is not None:
            return self._final.usage
        if self._attempt is None:
            return self._usage_before
        return total_usage(self._usage_before, self._attempt.usage())

    def estimated_cost_microusd(self) -> int:
        """Return the cost of the usage so far as it is compared with limits, or 0 without any price."""
        tariff, attempt = self._estimate.tariff, self._attempt
        if tariff is None or attempt is None:
            return self._cost_before_microusd
        return self._cost_before_microusd + tariff.estimated_cost_microusd(attempt.usage())

    def progress(self) -> Progress:
        """Return the progress so far, or the final progress."""
        if self._final is not None:
            return self._final
        attempt = self._attempt
        if attempt is None:
            return Progress(
                usage=self._usage_before,
                attempt_count=self._attempt_count,
                provider=self.plan.first.provider.name if self._attempt_count else "",
            )
        return Progress(
            usage=self.usage(),
            attempt_count=self._attempt_count,
            provider=attempt.route.provider.name,
            has_head=attempt.has_head,
            ttft_s=attempt.ttft_s,
            first_text_s=attempt.first_text_s,
            model=attempt.model,
            provider_response_id=attempt.response_id,
        )

    def open(self, *, from_cache: bool = False) -> None:
        """Append Started, and announce the stream. No provider is contacted."""
        self.from_cache = from_cache
        route, estimate = self.plan.first, self._estimate
        self.stream.log.append(
            Started(
                stream_id=self.stream.id,
                model=route.model,
                provider=route.provider.name,
                created_time=self.stream.created_time,
                request_id=self.stream.request_id,
                estimated_input_tokens=0 if from_cache else estimate.input_tokens,
                estimated_cost_microusd=0 if from_cache else estimate.input_cost_microusd,
                from_cache=from_cache,
            )
        )
        self._announce(lambda observer: observer.opened(self))

    def replay(self, deltas: Iterable[Delta], finished: Finished) -> None:
        """Append an earlier answer, and finish as it did. It used nothing: no provider is contacted."""
        for delta in deltas:
            self.stream.log.append(delta)
        duration_s = time.monotonic() - self._opened
        timings = Timings(duration_s=duration_s, ttft_s=duration_s)
        self._seal(
            msgspec.structs.replace(finished, usage=NO_USAGE, timings=timings),
            Progress(
                ttft_s=duration_s,
                model=finished.model,
                provider_response_id=finished.provider_response_id,
            ),
        )

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start to generate, in a task of `tasks`. Idempotent. From here on, the log will be sealed."""
        if self._task is not None or self.stream.log.sealed:
            return
        self._task = tasks.create_task(self._produce(), name=f"producer {self.stream.id}")
        self._task.add_done_callback(self._task_done)

    def cancel(self) -> None:
        """End the stream: it finishes with CANCELLED. Idempotent; no effect on an ended stream."""
        self._interrupt(None)

    def stop(self) -> None:
        """End the stream because the server stops: it fails with SERVER_STOPPED."""
        self._interrupt(ServerStopped("the stream ended with its server"))

    def _interrupt(self, why: TokenwireError | None) -> None:
        # At most once: a second cancellation would interrupt the closing of the upstream.
        if self._is_interrupted or self.stream.log.sealed:
            return
        self._is_interrupted = True
        self._interruption = why
        if self._task is None:
            self._end_interrupted()
        else:
            self._task.cancel()

    async def _produce(self) -> None:
        """Run the attempts, and seal the log however they end. Never raises."""
        left_s = self._opened + self._time_limit_s - time.monotonic()
        if left_s <= 0:
            self._finish(FinishReason.TIME_LIMIT)
            return
        try:
            async with asyncio.timeout(left_s):
                await self._run_attempts()
        except asyncio.CancelledError:
            self._end_interrupted()
        except TimeoutError:
            self._finish(FinishReason.TIME_LIMIT)
        except Overloaded as error:
            logger.warning("stream %s: %s", self.stream.id, error)
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # readers get its id; the server's log has the details
            self._fail(internal_fault(error))

    async def _run_attempts(self) -> None:
        """Run attempts at the preferred route until one of them ends the stream."""
        while (pause_s := await self._run_attempt(self.plan.first)) is not None:
            following = self._attempt_count + 1
            notice = Notice(NoticeKind.RETRYING, attempt=following, delay_s=pause_s)
            self.stream.log.append(notice)
            await asyncio.sleep(pause_s)

    async def _run_attempt(self, route: Route) -> float | None:
        """Run one attempt. Return the pause before the next one, or None if the stream has ended."""
        request, self._pause_s = self._request, None
        if request is None:
            raise RuntimeError("the request was dropped")
        if self._retries.is_last(self._attempt_count + 1):
            self._request = None
        if not self._attempt_count:
            self._retries.count_request(route.provider.name)
        attempt = self._attempt = Attempt(
            route,
            self._estimate,
            self._limits,
            started=self._opened,
            cost_limit=self._cost_limit(),
        )
        self._attempt_count += 1
        self._announce(lambda observer: observer.attempt_started(self, attempt))
        running = attempt.run(
            request, self.stream.log.append, self._announce_first_content, self._attempt_ended
        )
        del request  # the attempt drops it when it is sent
        try:
            await running
        except (UpstreamError, UnknownModel) as error:
            self._attempt_failed(attempt, error)
        return self._pause_s

    def _cost_limit(self) -> CostLimit | None:
        tariff, spend = self._estimate.tariff, self.reservation.spend
        if tariff is None or (spend is None and self._max_cost_microusd is None):
            return None
        before_microusd = self._cost_before_microusd
        return CostLimit(tariff, self._max_cost_microusd, spend, before_microusd=before_microusd)

    def _announce_first_content(self) -> None:
        self._request = None
        attempt = self._attempt
        if attempt is not None:
            self._announce(lambda observer: observer.first_content(self, attempt))

    def _attempt_ended(self, end: AttemptEnd) -> None:
        if isinstance(end, Complete):
            self._finish(end.reason, end.provider_reason, end.refusal)
        elif self._attempt is not None:
            self._attempt_failed(self._attempt, end)

    def _finish(
        self, reason: FinishReason, provider_reason: str = "", refusal: Refusal | None = None
    ) -> None:
        if self.stream.log.sealed:
            return
        progress = self.progress()
        route = self.plan.first
        if self._attempt is None:
            timings = Timings(duration_s=time.monotonic() - self._opened)
        else:
            timings = self._attempt.timings(progress.usage.output_tokens)
        finished = Finished(
            reason=reason,
            model=progress.model or route.model,
            provider=progress.provider or route.provider.name,
            usage=progress.usage,
            timings=timings,
            provider_response_id=progress.provider_response_id,
            provider_finish_reason=provider_reason,
            refusal=refusal,
        )
        self._seal(finished, progress)

    def _fail(self, error: TokenwireError) -> None:
        if self.stream.log.sealed:
            return
        progress = self.progress()
        last_sequence = self.stream.log.last_sequence
        failure = Failure.of(error, last_sequence=last_sequence, usage=progress.usage)
        # Keep only the value: the error's traceback refers to frames, and those to the upstream.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        self._seal(failure, progress)

    def _attempt_failed(self, attempt: Attempt, error: AttemptError) -> None:
        """Plan the next attempt, or seal the log with the error."""
        if self.stream.log.sealed:
            return
        pause_s = self._pause_after(attempt, error)
        # The only place where the provider's own text is reported, and only to the operator.
        logger.warning(
            "stream %s: upstream failed, %s: %s: %s: %r",
            self.stream.id,
            "no retry" if pause_s is None else f"retry in {pause_s:.3g} s",
            error.reason,
            error,
            error.provider_text,
        )
        self._announce(lambda observer: observer.attempt_failed(self, attempt, error))
        if pause_s is None:
            self._fail(caller_error(error, has_content=attempt.has_content))
        else:
            self._pause_s = pause_s
            self._close_attempt()

    def _pause_after(self, attempt: Attempt, error: AttemptError) -> float | None:
        """Return the pause before an attempt is repeated. None: it is not repeated."""
        if attempt.has_content or self._request is None:
            return None
        now = time.monotonic()
        left_s = self._opened + self._time_limit_s - now
        deadline = self.stream.latest_deadline
        if deadline is not None:
            left_s = min(left_s, deadline - now)
        return self._retries.pause_s(
            attempt.route.provider.name, error, failed_count=self._attempt_count, left_s=left_s
        )

    def _close_attempt(self) -> None:
        """Drop the current attempt, and keep what it used."""
        self._cost_before_microusd = self.estimated_cost_microusd()
        self._usage_before = self.usage()
        self._attempt = None

    def _task_done(self, _: asyncio.Task[None]) -> None:
        self._task = None  # it may refer to an error whose frames refer to this object
        self._end_interrupted()  # a task that is cancelled before its first step never runs `_produce`

    def _end_interrupted(self) -> None:
        if self._interruption is None:
            self._finish(FinishReason.CANCELLED)
        else:
            self._fail(self._interruption)

    def _seal(self, end: Finished | Failure, progress: Progress) -> None:
        """Seal the log, and announce the end. The log must be open."""
        if isinstance(end, Finished):
            self.stream.log.finish(end)
        else:
            self.stream.log.fail(end)
        self._close_attempt()
        self._request = None
        self._final = progress
        end_time = self.stream.created_time + time.monotonic() - self._opened
        self.stream.detach(progress.usage, end_time)
        self._announce(lambda observer: observer.ended(self))

    def _announce(self, notify: Callable[[StreamObserver], None]) -> None:
        for observer in self._observers:
            try:
                notify(observer)
            except Exception as error:  # noqa: BLE001  # the stream continues; the server's log has the details
                internal_fault(error)


def _time_limit_s(chat: AdmittedChat, limits: Limits, now: float) -> float:
    """Return how long the stream may take. It then finishes with TIME_LIMIT."""
    limit_s = limits.max_stream_duration_s
    margin_s = chat.request.retention.soft_deadline_margin_s
    if margin_s is None or chat.deadline is None:
        return limit_s
    return min(limit_s, chat.deadline - margin_s - now)
