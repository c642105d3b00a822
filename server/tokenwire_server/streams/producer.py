"""The task that reads an upstream into a stream's log, and seals it, however the stream ends."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractAsyncContextManager

from ..config import Limits
from ..deadline import SilenceLimit
from ..errors import (
    Overloaded,
    UnknownModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamStalled,
    UpstreamUnavailable,
)
from ..events import Finished, FinishReason, Usage
from ..providers.base import Asking, Route, Upstream, asking
from ..providers.decode.base import MAX_NAME_CHARS, Complete, Decoder
from ..request import ChatRequest
from ..routing.meter import Meter
from ..telemetry import internal_fault
from .stream import NOTHING, Progress, Stream

logger = logging.getLogger(__name__)
STALL_RETRY_AFTER_S = 60.0
"""The delay that callers are asked for when a provider sent no content in time. The provider may still
work on the request, and bill it: an immediate retry would take as long, and cost as much again."""


class Producer:
    """Produces one stream: opens the upstream, appends what it says, seals the log.

    `run` never raises: every end becomes the log's seal. Cancelled, at any point, it closes the upstream
    first, then seals.
    """

    __slots__ = (
        "_asking",
        "_attempts",
        "_cost_limit",
        "_decoder",
        "_first_content_s",
        "_idle_s",
        "_meter",
        "_request",
        "_route",
        "_stream",
        "_used_nothing",
    )

    def __init__(self, stream: Stream, route: Route, request: ChatRequest, limits: Limits) -> None:
        self._stream = stream
        self._route = route
        self._request: ChatRequest | None = request
        self._first_content_s = route.first_content_s or limits.upstream_first_content_s
        self._idle_s = route.idle_s or limits.upstream_idle_s
        self._meter = Meter(stream.opened, stream.estimate)
        self._cost_limit = stream.cost_limit
        self._decoder: Decoder | None = None
        self._attempts = 0
        self._asking = Asking()
        self._used_nothing = False
        """The provider refused the request, or failed before the first content."""

    def usage(self) -> Usage:
        """Return the stream's usage so far: the provider's figures, or an estimate.

        It is zero until the request is sent. It is also zero if the provider refused the request or
        failed before the first content, unless the provider reported figures. If this server ended the
        stream while the provider worked on it, the input counts as used.
        """
        if not self._asking.is_sent:
            return NOTHING
        decoder = self._decoder
        if decoder is None:
            usage = self._meter.usage(None)
        else:
            usage = self._meter.usage(decoder.usage, is_whole=isinstance(decoder.end, Complete))
        return NOTHING if self._used_nothing and usage.estimated else usage

    def progress(self) -> Progress:
        """How far the stream has come."""
        decoder = self._decoder
        return Progress(
            usage=self.usage(),
            attempts=self._attempts,
            ttft_s=self._meter.ttft_s,
            model=(decoder.model[:MAX_NAME_CHARS] if decoder else "") or self._route.model,
            provider_response_id=decoder.response_id[:MAX_NAME_CHARS] if decoder else "",
        )

    async def run(self) -> None:
        asking.set(self._asking)
        try:
            async with asyncio.timeout(self._stream.time_limit_s) as duration:
                with SilenceLimit(self._first_content_s) as silence:
                    async with self._open() as upstream:
                        self._asking.is_sent = True
                        self._decoder = upstream.decoder
                        if await self._read(upstream, silence):
                            self._seal_as_ended(upstream)
                        else:
                            self._finish(FinishReason.BUDGET)
        except asyncio.CancelledError:
            self.seal_interrupted()
        except TimeoutError:
            if duration.expired():
                self._finish(FinishReason.TIME_LIMIT)
            else:
                self._fail_upstream(self._stalled(silence.limit_s))
        except UnknownModel as error:
            self._used_nothing = True
            self._log_upstream(error)
            self._stream.fail(error)
        except UpstreamError as error:
            self._fail_upstream(error)
        except Overloaded as error:
            logger.warning("stream %s: %s", self._stream.id, error)
            self._stream.fail(error)
        except Exception as error:  # noqa: BLE001  # told to readers by id, logged whole
            self._stream.fail(internal_fault(error))

    def seal_interrupted(self) -> None:
        """Seal as a stream ends whose producer was cancelled."""
        interruption = self._stream.interruption
        if interruption is None:
            self._finish(FinishReason.CANCELLED)
        else:
            self._stream.fail(interruption)

    def _open(self) -> AbstractAsyncContextManager[Upstream]:
        """The upstream, with the request handed over: prompts can be large, and answers long."""
        request, self._request = self._request, None
        if request is None:
            raise RuntimeError("a producer runs once")
        self._attempts += 1
        return self._route.provider.open(request, self._route.model, self._route.max_output_tokens)

    async def _read(self, upstream: Upstream, silence: SilenceLimit) -> bool:
        """Read the upstream to its end. Return False if the answer reached its cost limit before that.

        Every token takes this path. Until the first content, the initial limit of `silence` applies,
        whatever else arrives.
        """
        append = self._stream.log.append
        # The loop's own clock will not do: uvloop's has steps of a millisecond.
        now = time.monotonic
        decoder = upstream.decoder
        meter = self._meter
        cost_limit = self._cost_limit
        reported: Usage | None = None
        idle_s = self._idle_s
        has_content = False
        while upstream.end is None:
            deltas = await upstream.read()
            arrival = now()
            if deltas:
                has_content = True
                meter.arrived(deltas, arrival)
                for delta in deltas:
                    append(delta)
            if has_content:
                silence.heard(arrival, idle_s)
            told = decoder.usage
            is_new = told is not reported
            if told is not None and is_new:
                meter.told(told)
                reported = told
            if cost_limit is not None and upstream.end is None:
                due = is_new or meter.chars >= cost_limit.check_at_chars
                if due and cost_limit.reserve_or_stop(self.usage(), meter.chars):
                    return False
        return True

    def _seal_as_ended(self, upstream: Upstream) -> None:
        if isinstance(upstream.end, Complete):
            self._finish(upstream.end.reason)
        elif upstream.end is not None:
            self._fail_upstream(upstream.end)

    def _finish(self, reason: FinishReason) -> None:
        progress = self.progress()
        self._stream.finish(
            Finished(
                reason=reason,
                model=progress.model,
                provider=self._route.provider.name,
                usage=progress.usage,
                timings=self._meter.timings(time.monotonic(), progress.usage.output_tokens),
                provider_response_id=progress.provider_response_id,
            )
        )

    def _stalled(self, limit_s: float) -> UpstreamStalled:
        provider = f"provider {self._route.provider.name!r}"
        if self._meter.has_token:
            return UpstreamStalled(f"{provider} sent nothing for {limit_s:g} s")
        if self._decoder is None:
            why = f"{provider} did not answer within {limit_s:g} s"
        else:
            why = f"{provider} accepted the request and sent no content for {limit_s:g} s"
        return UpstreamStalled(why, retry_after_s=STALL_RETRY_AFTER_S)

    def _fail_upstream(self, error: UpstreamError) -> None:
        """Seal with a fault of the provider, named after whether a token has come."""
        error.provider = self._route.provider.name
        self._used_nothing = not self._meter.has_token and not isinstance(error, UpstreamStalled)
        seen = _as_seen(error, after_first_token=self._meter.has_token)
        self._log_upstream(seen)
        self._stream.fail(seen)

    def _log_upstream(self, error: UpstreamError | UnknownModel) -> None:
        """The one place where what a provider wrote is told, to the operator."""
        logger.warning(
            "stream %s: upstream failed: %s: %s: %r",
            self._stream.id,
            error.reason,
            error,
            error.provider_text,
        )


def _as_seen(error: UpstreamError, *, after_first_token: bool) -> UpstreamError:
    """What a provider's fault means to the caller, who may only retry what sent no token."""
    kind: type[UpstreamError]
    if after_first_token and not isinstance(error, UpstreamStalled):
        kind = UpstreamBroken
    elif not after_first_token and isinstance(error, UpstreamStalled | UpstreamBroken):
        kind = UpstreamUnavailable
    else:
        return error
    seen = kind(
        str(error),
        provider=error.provider,
        status=error.status,
        error_type=error.error_type,
        field=error.field,
        provider_text=error.provider_text,
        retry_after_s=None if after_first_token else error.retry_after_s or 1.0,
    )
    seen.__cause__ = error
    return seen
