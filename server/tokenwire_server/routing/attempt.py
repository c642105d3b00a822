"""One request to a provider, from sending it to the end of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

from ..config import Limits
from ..errors import (
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamStalled,
    UpstreamUnavailable,
)
from ..events import (
    NO_USAGE,
    Delta,
    Timings,
    Usage,
)
from ..pricing.estimate import Estimate
from ..providers.base import Route, Upstream
from ..providers.decode.base import MAX_NAME_CHARS, Complete, Decoder
from ..request import ChatRequest
from .cost_limit import CostLimit
from .meter import Meter
from .pacing import ReadPacing
from .reading import AnswerReading, StagedAnswer
from .retry import AttemptError
from .time_limits import FIRST_CONTENT, IDLE, AnswerTimer, TimeLimits, Wait

STALL_RETRY_AFTER_S = 60.0
"""Suggested delay before a retry if a provider sent no content in time. The provider may still work on the
request, and bill it: an immediate retry would take as long, and cost as much again."""

AttemptEnd = Complete | UpstreamError


class AttemptKind(StrEnum):
    """What an attempt is in its stream. The values are labels of metrics."""

    FIRST = "first"
    RETRY = "retry"
    """The same model as in the attempt before, at the same target or at another one."""
    FALLBACK = "fallback"
    """Another model than in the attempt before."""


class Attempt:
    """One request to one provider: its upstream, its meter and its cost limit. `run` it once."""

    __slots__ = (
        "_cost_limit",
        "_decoder",
        "_limits",
        "_meter",
        "_pacing",
        "_upstream",
        "_used_nothing",
        "created",
        "kind",
        "route",
    )

    def __init__(
        self,
        route: Route,
        estimate: Estimate,
        limits: Limits,
        pacing: ReadPacing,
        *,
        started: float,
        kind: AttemptKind = AttemptKind.FIRST,
        cost_limit: CostLimit | None = None,
    ) -> None:
        """`started` is when the stream was accepted, a value of `time.monotonic`."""
        self.route = route
        self.kind = kind
        self.created = time.monotonic()
        """When the attempt began, a value of `time.monotonic`."""
        self._limits = limits
        self._pacing = pacing
        self._meter = Meter(started, estimate)
        self._cost_limit = cost_limit
        self._upstream: Upstream | None = None
        self._decoder: Decoder | None = None
        self._used_nothing = False
        """The provider refused the request, or failed before the first content."""

    @property
    def has_head(self) -> bool:
        """Whether the provider has accepted the request, and the head of its answer has arrived."""
        return self._decoder is not None

    @property
    def has_content(self) -> bool:
        """Whether the provider has sent content: after that, the attempt cannot be repeated."""
        return self._meter.has_token

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the acceptance of the stream to its first content, or None before that."""
        return self._meter.ttft_s

    @property
    def first_text_s(self) -> float | None:
        """Seconds from the acceptance of the stream to its first text, or None before that."""
        return self._meter.first_text_s

    @property
    def model(self) -> str:
        """The model as the provider names it: the reported name, or the requested one."""
        reported = "" if self._decoder is None else self._decoder.model[:MAX_NAME_CHARS]
        return reported or self.route.model

    @property
    def response_id(self) -> str:
        """The provider's id of the answer, or an empty string if it has sent none."""
        return "" if self._decoder is None else self._decoder.response_id[:MAX_NAME_CHARS]

    def usage(self) -> Usage:
        """Return the usage so far: the provider's figures, or an estimate.

        It is zero until the request is sent. It is also zero if the provider refused the request or
        failed before the first content, unless the provider reported figures. If this server ended the
        stream while the provider worked on it, the input counts as used.
        """
        decoder = self._decoder
        if decoder is None:
            if self._upstream is None or not self._upstream.is_sent:
                return NO_USAGE
            usage = self._meter.usage(None)
        else:
            usage = self._meter.usage(decoder.usage, is_whole=isinstance(decoder.end, Complete))
        return NO_USAGE if self._used_nothing and usage.estimated else usage

    def timings(self) -> Timings:
        """Return the timings of the stream if it ended now. The speed is that of this attempt."""
        return self._meter.timings(time.monotonic(), self.usage())

    async def run(
        self,
        request: ChatRequest,
        append: Callable[[Delta], object],
        on_first_content: Callable[[], None],
        on_end: Callable[[AttemptEnd], None],
        stages: StagedAnswer | None = None,
    ) -> None:
        """Send the request, and pass each delta of the answer to `append`, which is that of `stages` if there
        are any.

        `on_end` gets how the answer ended, before the upstream is closed: closing it can take a while. If
        stages check the whole answer, it is closed before, because a check can take a while, too.

        Raises UpstreamError, with the name of the limit if a time limit was reached; UnknownModel; and
        Overloaded if no file descriptor is left. Cancellation at any point closes the connection at once.
        """
        route = self.route
        timer = AnswerTimer(TimeLimits.of(route, self._limits, request), time.monotonic())
        try:
            with timer:
                self._upstream = route.provider.open(request, route.model, route.max_output_tokens)
                del request  # do not keep a large prompt in memory for a long answer
                async with self._upstream as upstream:
                    self._decoder = upstream.decoder
                    timer.head_arrived(time.monotonic())
                    reading = self._reading(upstream, timer, append, on_first_content, stages)
                    end = self._end(await reading.run() or upstream.end)
                    checks = stages if isinstance(end, Complete) else None
                    if checks is None or not checks.has_checks:
                        checks = None
                        on_end(end)
                    else:
                        timer.heard(time.monotonic(), timer.idle_s)  # the stages took time
        except TimeoutError:
            if stages is None or stages.end is None:
                raise self._failed(self._stalled(timer.wait)) from None
            end, checks = stages.end, stages  # what is before it is still checked
        except UpstreamError as error:
            self._failed(error)
            raise
        except UnknownModel:
            self._used_nothing = True
            raise
        if checks is not None:
            await checks.check()
            on_end(end)

    def _reading(
        self,
        upstream: Upstream,
        timer: AnswerTimer,
        append: Callable[[Delta], object],
        on_first_content: Callable[[], None],
        stages: StagedAnswer | None,
    ) -> AnswerReading:
        return AnswerReading(
            upstream,
            self._meter,
            timer,
            append,
            cost_limit=self._cost_limit,
            pacing=self._pacing,
            stages=stages,
            usage=self.usage,
            on_first_content=on_first_content,
        )

    def _end(self, end: AttemptEnd | None) -> AttemptEnd:
        """Return how the answer ended, which is recorded if it is an error."""
        if end is None:
            raise RuntimeError("an answer was read without reaching its end")
        return end if isinstance(end, Complete) else self._failed(end)

    def _stalled(self, wait: Wait) -> UpstreamStalled:
        if self._decoder is None:
            what = "did not answer within"
        elif wait.limit == IDLE:
            what = "sent nothing for"
        elif wait.limit == FIRST_CONTENT:
            what = "accepted the request and sent no content for"
        else:
            what = "sent only events without content for"
        provider = f"provider {self.route.provider.name!r}"
        return UpstreamStalled(
            f"{provider} {what} {wait.limit_s:g} s ({wait.limit})",
            retry_after_s=None if self.has_content else STALL_RETRY_AFTER_S,
            limit_name=wait.limit,
        )

    def _failed(self, error: UpstreamError) -> UpstreamError:
        """Record that the provider failed. Return the error."""
        error.provider = self.route.provider.name
        self._used_nothing = not self.has_content and not isinstance(error, UpstreamStalled)
        return error


def caller_error(error: AttemptError, *, has_content: bool) -> AttemptError:
    """Return the error that callers get. A retryable type is used only before the first content."""
    kind: type[UpstreamError]
    if not isinstance(error, UpstreamError):
        return error
    if has_content and not isinstance(error, UpstreamStalled):
        kind = UpstreamBroken
    elif not has_content and isinstance(error, UpstreamStalled | UpstreamBroken):
        kind = UpstreamUnavailable
    else:
        return error
    return kind(
        str(error),
        provider=error.provider,
        status=error.status,
        error_type=error.error_type,
        error_code=error.error_code,
        field=error.field,
        provider_text=error.provider_text,
        retry_after_s=None if has_content else error.retry_after_s or 1.0,
        limit_name=error.limit_name,
    )
