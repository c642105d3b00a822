"""The generation of one stream, in the process that owns it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ..deadline import TIMER_CONTEXT
from ..errors import Failure, Overloaded, ServerStopped, TokenwireError
from ..events import NO_USAGE, AnswerEntry, Delta, Finished, FinishReason, Started, Timings, Usage
from ..ledger.record import FilterAction
from ..providers.base import Route
from ..providers.decode.base import Complete
from ..request import CacheUse
from ..routing.attempt import Attempt
from ..routing.attempts import Attempts
from ..routing.owner import Routing
from ..routing.retry import AttemptError
from ..telemetry import internal_fault
from .admitted import AdmittedChat, Progress
from .handle import StreamHandle
from .staging import AnswerStages

logger = logging.getLogger(__name__)


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
        """The provider refused the request, or failed. Another attempt may follow, at another route."""

    def attempt_refused(self, generation: Generation, route: Route, error: AttemptError) -> None:
        """No request was sent: a breaker refused it, or no connection to the provider was free."""

    def first_content(self, generation: Generation, attempt: Attempt) -> None:
        """The first content was appended to the log."""

    def ended(self, generation: Generation) -> None:
        """The log was sealed. `generation.progress()` is final. Called once."""


class Generation:
    """Runs the attempts of one stream's plan, appends their answer to the log, and seals it.

    Its task is the stream's producer. No RPC runs it, so no RPC can interrupt it half-way. It is cancelled
    at most once: when the last reader has left, on a caller's request, at the time limit, or when the server
    stops. It then closes the upstream and seals the log.

    What follows an attempt that fails is decided by `Attempts`, within the latest deadline of the readers and
    the stream's time limit. After the first content, nothing is sent again. What an answer passes before it
    is appended are its stages, see `content.stages`. Usually there are none.

    At the end, the final progress is computed once, the log is sealed, and the observers are notified.
    """

    __slots__ = (
        "_attempts",
        "_estimate",
        "_final",
        "_input_actions",
        "_interruption",
        "_is_interrupted",
        "_observers",
        "_opened",
        "_stages",
        "_task",
        "_time_limit_s",
        "cache_use",
        "caller",
        "from_cache",
        "labels",
        "requested_model",
        "reservation",
        "stream",
    )

    def __init__(
        self,
        stream: StreamHandle,
        chat: AdmittedChat,
        routing: Routing,
        observers: Iterable[StreamObserver] = (),
    ) -> None:
        request = chat.request
        self.stream = stream
        self.caller = chat.caller
        self.reservation = chat.reservation
        # Values that are needed after the request is dropped: prompts can be large.
        self.requested_model = request.model
        self.labels = request.labels
        self.cache_use: CacheUse | None = request.cache
        self.from_cache = False
        """Whether the stream replays an earlier answer."""
        self._estimate = chat.estimate
        self._observers: Sequence[StreamObserver] = tuple(observers)
        self._opened = time.monotonic()
        self._time_limit_s = chat.time_limit_s(routing.limits, self._opened)
        self._attempts = Attempts(
            chat.plan,
            request,
            chat.estimate,
            routing,
            tenant=chat.caller.tenant,
            spend=chat.reservation.spend,
            started=self._opened,
        )
        self._input_actions = chat.input_actions
        self._stages = AnswerStages.of(
            request, routing, stream.tenant, stream.log.append, self._end_by_stage
        )
        self._task: asyncio.Task[None] | None = None
        self._is_interrupted = False
        self._interruption: Complete | TokenwireError = Complete(FinishReason.CANCELLED)
        """How the stream ends if its task is cancelled."""
        self._final: Progress | None = None
        stream.attach(self)

    @property
    def route(self) -> Route:
        """The route of the current or the last attempt, or the preferred route if there was none."""
        return self._attempts.route

    @property
    def is_fallback(self) -> bool:
        """Whether the current or the last attempt was one at another model than the requested one."""
        return self._attempts.is_fallback

    @property
    def filter_actions(self) -> tuple[FilterAction, ...]:
        """What filters and moderations did so far to the request and its answer, if they did something."""
        if self._stages is None and not self._input_actions:
            return ()
        counts = Counter({(each.name, each.action): each.count for each in self._input_actions})
        for each in self._stages.actions if self._stages is not None else ():
            counts[each.name, each.action] += each.count
        return tuple(FilterAction(*acted, count) for acted, count in counts.items())

    @property
    def has_unchecked(self) -> bool:
        """Whether the log has text that a moderation could not check."""
        return self._stages is not None and self._stages.has_unchecked

    def usage(self) -> Usage:
        """Return the usage so far."""
        return self._attempts.usage() if self._final is None else self._final.usage

    def estimated_cost_microusd(self) -> int:
        """Return the cost of the usage so far as it is compared with limits, or 0 without any price."""
        return self._attempts.estimated_cost_microusd()

    def progress(self) -> Progress:
        """Return the progress so far, or the final progress."""
        if self._final is not None:
            return self._final
        attempts = self._attempts
        attempt, count = attempts.current, attempts.count
        if attempt is None:
            return Progress(
                usage=attempts.usage(),
                attempt_count=count,
                provider=attempts.route.provider.name if count else "",
            )
        return Progress(
            usage=attempts.usage(),
            attempt_count=count,
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
        route, estimate = self.route, self._estimate
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

    def replay(self, deltas: Iterable[AnswerEntry], finished: Finished) -> None:
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
        self._interrupt(Complete(FinishReason.CANCELLED))

    def stop(self) -> None:
        """End the stream because the server stops: it fails with SERVER_STOPPED."""
        self._interrupt(ServerStopped("the stream ended with its server"))

    def _reach_time_limit(self) -> None:
        self._interrupt(Complete(FinishReason.TIME_LIMIT))

    def _interrupt(self, end: Complete | TokenwireError) -> None:
        # At most once: a second cancellation would interrupt the closing of the upstream.
        if self._is_interrupted or self.stream.log.sealed:
            return
        self._is_interrupted = True
        self._interruption = end
        if self._stages is not None:
            self._stages.close()  # nothing that is checked from here on is shown
        if self._task is None:
            self._end_interrupted()
        else:
            self._task.cancel()

    async def _produce(self) -> None:
        """Run the attempts, and seal the log however they end. Never raises."""
        left_s = self._opened + self._time_limit_s - time.monotonic()
        if left_s <= 0:
            self.finish(Complete(FinishReason.TIME_LIMIT))
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(left_s, self._reach_time_limit, context=TIMER_CONTEXT)
        try:
            await self._attempts.run(self)
        except asyncio.CancelledError:
            self._end_interrupted()
        except Overloaded as error:
            logger.warning("stream %s: %s", self.stream.id, error)
            self.fail(error)
        except Exception as error:  # noqa: BLE001  # readers get its id; the server's log has the details
            self.fail(internal_fault(error))
        finally:
            timer.cancel()
            if self._stages is not None:
                await self._stages.aclose()

    # AttemptOwner

    @property
    def stream_id(self) -> str:
        return self.stream.id

    @property
    def has_ended(self) -> bool:
        return self.stream.log.sealed

    @property
    def append(self) -> Callable[[Delta], object]:
        if self._stages is None:
            return self.stream.log.append
        return self._stages.append

    @property
    def stages(self) -> AnswerStages | None:
        return self._stages

    def left_s(self) -> float:
        now = time.monotonic()
        left_s = self._opened + self._time_limit_s - now
        deadline = self.stream.latest_deadline
        return left_s if deadline is None else min(left_s, deadline - now)

    def attempt_started(self, attempt: Attempt) -> None:
        self._announce(lambda observer: observer.attempt_started(self, attempt))

    def attempt_failed(self, attempt: Attempt, error: AttemptError) -> None:
        self._announce(lambda observer: observer.attempt_failed(self, attempt, error))

    def attempt_refused(self, route: Route, error: AttemptError) -> None:
        self._announce(lambda observer: observer.attempt_refused(self, route, error))

    def first_content(self, attempt: Attempt) -> None:
        self._announce(lambda observer: observer.first_content(self, attempt))

    def finish(self, end: Complete) -> None:
        if self.stream.log.sealed:
            return
        if self._stages is not None:
            self._stages.finish(end)
            if self._stages.failure is not None:
                self.fail(self._stages.failure)
                return
            end = self._stages.end or end
        progress, attempt, route = self.progress(), self._attempts.current, self.route
        if attempt is None:
            timings = Timings(duration_s=time.monotonic() - self._opened)
        else:
            timings = attempt.timings()
        finished = Finished(
            reason=end.reason,
            model=progress.model or route.model,
            provider=progress.provider or route.provider.name,
            usage=progress.usage,
            timings=timings,
            provider_response_id=progress.provider_response_id,
            provider_finish_reason=end.provider_reason,
            refusal=end.refusal,
        )
        self._seal(finished, progress)

    def fail(self, error: TokenwireError) -> None:
        if self.stream.log.sealed:
            return
        if self._stages is not None:
            self._stages.finish(None)
        progress = self.progress()
        last_sequence = self.stream.log.last_sequence
        failure = Failure.of(error, last_sequence=last_sequence, usage=progress.usage)
        # Keep only the value: the error's traceback refers to frames, and those to the upstream.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        self._seal(failure, progress)

    def _task_done(self, _: asyncio.Task[None]) -> None:
        self._task = None  # it may refer to an error whose frames refer to this object
        self._end_interrupted()  # a task that is cancelled before its first step never runs `_produce`

    def _end_by_stage(self) -> None:
        """End the stream because a stage ended the answer, or made it an error, while nothing arrived."""
        if self._stages is None:
            return
        self._is_interrupted = True
        if self._stages.failure is not None:
            self.fail(self._stages.failure)
        elif self._stages.end is not None:
            self.finish(self._stages.end)
        if self._task is not None:
            self._task.cancel()

    def _end_interrupted(self) -> None:
        if isinstance(self._interruption, Complete):
            self.finish(self._interruption)
        else:
            self.fail(self._interruption)

    def _seal(self, end: Finished | Failure, progress: Progress) -> None:
        """Seal the log, and announce the end. The log must be open."""
        if self._stages is not None:
            self._stages.close()
        if isinstance(end, Finished):
            self.stream.log.finish(end)
        else:
            self.stream.log.fail(end)
        self._attempts.close()
        self._final = progress
        if actions := self.filter_actions:
            acted = ", ".join(f"{filter_.name} ({filter_.action})" for filter_ in actions)
            logger.info("stream %s: filters acted: %s", self.stream.id, acted)
        end_time = self.stream.created_time + time.monotonic() - self._opened
        self.stream.detach(progress.usage, end_time)
        self._announce(lambda observer: observer.ended(self))

    def _announce(self, notify: Callable[[StreamObserver], None]) -> None:
        for observer in self._observers:
            try:
                notify(observer)
            except Exception as error:  # noqa: BLE001  # the stream continues; the server's log has the details
                internal_fault(error)
