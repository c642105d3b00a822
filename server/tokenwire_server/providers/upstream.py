"""A configured provider: opening answers, and counting input tokens.

The body is read as bytes, and decoded by our own sans-IO decoder: a typed stream of the official SDK takes 5
to 8 times the CPU per token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from copy import copy
from types import TracebackType
from typing import Annotated, Any, Self

import aiohttp
import msgspec

from ..config import ProviderConfig
from ..errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from ..events import Delta
from ..request import ChatRequest, Violation
from .base import CountingDialect, Dialect
from .body import Body
from .connection import FramingError
from .decode import errors
from .decode.base import Complete, Decoder
from .decode.errors import body as error_body
from .decode.errors.body import MAX_LOG_CHARS
from .decode.errors.retry_delay import DEFAULT_RETRY_AFTER_S
from .decode.json import log_text
from .fault import Faults
from .http import RequestError, Sender, StatusError
from .inflate import BodyError
from .opening import MAX_START_BYTES, Opening
from .slots import ConnectionSlots
from .state import without_foreign_state

MAX_TURN_DELTAS = 256
"""Maximum number of deltas that a read returns. To append them to a log with eight readers takes 1 ms."""
END_OF_BODY_S = 0.25
MAX_END_OF_BODY_BYTES = 64 * 1024
"""Bounds on reading the rest of the body after a complete answer, so that the connection can be reused."""
COUNT_S = 10.0
"""Time limit for counting the input tokens of a request at the provider, including the connect."""
MAX_COUNT_BODY_BYTES = 64 * 1024
"""Maximum size of a count, which is about 50 bytes. The rest of a larger body is not read."""

MAX_KNOWN_PROBLEMS = 100
"""Maximum number of problems of a provider's answers that are kept, to warn of each only once."""

_encoder = msgspec.json.Encoder()
logger = logging.getLogger(__name__)


class _Count(msgspec.Struct, frozen=True):
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class HttpProvider:
    """A provider behind HTTP: one dialect, one key."""

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        dialect: Dialect,
        sender: Sender,
        faults: Faults,
    ) -> None:
        self.name = name
        self.slots = ConnectionSlots(name, config.max_connections)
        self._faults = faults
        self._config = config
        self._dialect = dialect
        self._counting = dialect if isinstance(dialect, CountingDialect) else None
        self._sender = sender
        self._problems: set[str] = set()

    def with_key(self, sender: Sender, faults: Faults) -> HttpProvider:
        """Return this provider with a sender of another key. The two share the connection slots."""
        other = copy(self)
        other._sender = sender
        other._faults = faults
        return other

    def check(self, request: ChatRequest) -> Iterator[Violation]:
        return self._dialect.check(request, self._config)

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> HttpUpstream:
        body = self._body(request, model, max_output_tokens)
        return HttpUpstream(
            sender=self._sender,
            dialect=self._dialect,
            body=_encoder.encode(body),
            decoder=self._dialect.decoder(self._config, self.name),
            provider=self.name,
            model=model,
            report=self._report,
            faults=self._faults,
            slots=self.slots,
        )

    def _report(self, problem: str) -> None:
        """Log a problem of an answer: as a warning if it is new, because a server often repeats it."""
        is_new = problem not in self._problems and len(self._problems) < MAX_KNOWN_PROBLEMS
        if is_new:
            self._problems.add(problem)
        level = logging.WARNING if is_new else logging.DEBUG
        logger.log(level, "provider %r: %s", self.name, problem)

    def _body(
        self, request: ChatRequest, model: str, max_output_tokens: int | None
    ) -> dict[str, Any]:
        messages = without_foreign_state(request.messages, self.name)
        request = msgspec.structs.replace(request, messages=messages)
        return self._dialect.body(request, model, self._config, max_output_tokens)

    async def count_input_tokens(self, request: ChatRequest, model: str) -> int | None:
        """See `base.Provider`."""
        if self._counting is None:
            return None
        body = self._counting.count_body(self._body(request, model, None))
        if body is None:
            return None
        path = self._counting.count_path
        try:
            async with asyncio.timeout(COUNT_S):
                answer = await self._fetch(path, _encoder.encode(body))
        except RequestError as error:
            if _has_no_endpoint(error):
                return None
            raise self._faults.of_request(error, path=path, model=model) from error
        except BodyError as error:
            raise self._no_count(str(error)) from error
        except TimeoutError as error:
            raise self._no_count(f"took longer than {COUNT_S:g} s to count input tokens") from error
        try:
            return msgspec.json.decode(answer, type=_Count).input_tokens
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._no_count(
                "answered without a count of input tokens", log_text(answer, error)
            ) from error

    async def _fetch(self, path: str, body: bytes) -> bytes:
        """Send a request and return the body of the response, cut off after MAX_COUNT_BODY_BYTES + 1."""
        self.slots.acquire()
        try:
            response = await self._sender.post(path, body, accept="application/json")
            try:
                return await Body(response).read_whole(MAX_COUNT_BODY_BYTES + 1)
            finally:
                response.release()
        finally:
            self.slots.release()

    def _no_count(self, why: str, provider_text: str = "") -> UpstreamError:
        return self._faults.of_answer(
            UpstreamUnavailable(
                f"provider {self.name!r} {why}",
                provider=self.name,
                provider_text=provider_text,
                retry_after_s=DEFAULT_RETRY_AFTER_S,
            )
        )


class HttpUpstream:
    """An answer of a provider. Entering the context sends the request and waits for the response's head.

    Leaving it closes the connection immediately, unless the answer is complete and its body ends within
    `END_OF_BODY_S`. Cancellation while entering closes the connection, too.
    """

    __slots__ = (
        "_body",
        "_content",
        "_dialect",
        "_faults",
        "_model",
        "_opening",
        "_provider",
        "_report",
        "_response",
        "_sender",
        "_slots",
        "_take",
        "_waiting",
        "decoder",
        "end",
        "is_sent",
    )

    def __init__(
        self,
        *,
        sender: Sender,
        dialect: Dialect,
        body: bytes,
        decoder: Decoder,
        provider: str,
        model: str,
        report: Callable[[str], None],
        faults: Faults,
        slots: ConnectionSlots,
    ) -> None:
        """`report` gets the problem of the answer, if it has one."""
        self.decoder = decoder
        self.end: Complete | UpstreamError | None = None
        self.is_sent = False
        self._waiting: list[Delta] = []
        self._sender = sender
        self._dialect = dialect
        self._body = body
        self._provider = provider
        self._model = model
        self._report = report
        self._faults = faults
        self._slots = slots
        self._opening: Opening | None = None
        """The beginning of the body, until it is known to be an event stream."""
        self._take: Callable[[list[Delta]], bool] | None = None

    @property
    def has_more(self) -> bool:
        """See `base.Upstream`."""
        return bool(self._waiting) or self._content.has_more

    async def __aenter__(self) -> Self:
        self._slots.acquire()
        try:
            await self._send()
        except BaseException:
            self._slots.release()
            raise
        return self

    async def _send(self) -> None:
        path = self._dialect.path
        try:
            self._response = await self._sender.post(
                path, self._body, accept="text/event-stream", on_sent=self._mark_sent
            )
        except RequestError as error:
            raise self._faults.of_request(error, path=path, model=self._model) from error
        del self._body  # prompts can be large, and answers long
        try:
            self._content = Body(self._response, self._sender.backlog)
        except BodyError as error:
            self._response.release()
            raise UpstreamUnavailable(
                f"provider {self._provider!r} {error}",
                provider=self._provider,
                provider_text=self._response.headers.get("content-encoding", "")[:100],
            ) from error
        self._opening = Opening(self._response.headers.get("content-type", ""))
        self._response.forget_head()

    def _mark_sent(self) -> None:
        self.is_sent = True

    async def read(self) -> list[Delta]:
        """See `base.Upstream`."""
        if self._waiting:
            await asyncio.sleep(0)
            return self._first_of(self._waiting)
        try:
            data = await self._content.read()
        except (aiohttp.ClientError, BodyError) as error:
            # The response keeps the error: drop its frames and what they refer to.
            self.end = self.decoder.end = self._broken(error.with_traceback(None))
            return []
        if self._opening is not None:
            deltas = self._open(self._opening, data)
        else:
            deltas = self.decoder.feed(data) if data else self.decoder.eof()
        if deltas:
            self._content.got_content()
            if len(deltas) > MAX_TURN_DELTAS:
                return self._first_of(deltas)
        if self.decoder.end is not None:
            self._take_end()
        return deltas

    async def push(self, take: Callable[[list[Delta]], bool]) -> None:
        """See `base.Upstream`."""
        if self._waiting or self._opening is not None or self.end is not None:
            return
        self._take = take
        try:
            await self._content.push(self._receive)
        except BodyError as error:
            self.end = self.decoder.end = self._broken(error)
        finally:
            self._take = None

    def _receive(self, data: bytes) -> bool:
        """Decode a piece in `push`. Return whether to continue."""
        deltas = self.decoder.feed(data)
        if deltas:
            self._content.got_content()
            if len(deltas) > MAX_TURN_DELTAS:
                self._waiting = deltas
                return False
        if self.decoder.end is not None:
            self._take_end()
        take = self._take
        return take is not None and take(deltas) and self.end is None

    def _open(self, opening: Opening, data: bytes) -> list[Delta]:
        """Decode the next bytes until the body is known to be an event stream."""
        opening.add(data)
        if opening.kind == "stream":
            self._opening = None
            deltas = self.decoder.feed(bytes(opening.body))
            return deltas if data else deltas + self.decoder.eof()
        if opening.kind == "json" and not opening.is_too_large:
            return [] if data else self._decode_whole(opening)
        if opening.kind is not None:
            media = opening.media_type or "a body without a media type"
            if opening.kind == "json":
                media = "too much JSON"
            self.decoder.end = self._not_a_stream(media, bytes(opening.body[:MAX_START_BYTES]))
        return []

    def _decode_whole(self, opening: Opening) -> list[Delta]:
        """Decode a JSON body: the whole answer, or an error."""
        body = bytes(opening.body)
        value = error_body.parse(body)
        if isinstance(value, str):  # some servers end the JSON with the blank line of an event
            value = error_body.parse(body.lstrip().partition(b"\n\n")[0])
        try:
            events = self._dialect.events_of(value) if isinstance(value, dict) else None
        except RecursionError:  # it can be decoded, but is nested too deeply to be encoded
            events = None
        if events is not None:
            deltas = self.decoder.feed(events)
            return deltas if self.decoder.end is not None else deltas + self.decoder.eof()
        if error_body.is_error(value):
            self.decoder.end = self._faults.of_body(value)
        else:
            names = ", ".join(sorted(map(str, value))[:20]) if isinstance(value, dict) else ""
            text = f"{len(body)} bytes; fields: {names}"  # not the values, which may be an answer
            self.decoder.end = self._not_a_stream("JSON of an unknown kind", text.encode())
        return []

    def _not_a_stream(self, what: str, text: bytes) -> UpstreamUnavailable:
        return self._faults.wrong_address(
            f"answered with {what} instead of an event stream",
            path=self._dialect.path,
            text=text.decode(errors="replace")[:MAX_LOG_CHARS],
        )

    def _first_of(self, deltas: list[Delta]) -> list[Delta]:
        """Return the first deltas, and keep the others for the next reads."""
        self._waiting = deltas[MAX_TURN_DELTAS:]
        if not self._waiting:
            self._take_end()
        return deltas[:MAX_TURN_DELTAS]

    def _take_end(self) -> None:
        end = self.decoder.end
        self.end = self._faults.of_answer(end) if isinstance(end, UpstreamError) else end

    def _broken(self, error: aiohttp.ClientError | BodyError) -> UpstreamBroken:
        if isinstance(error, BodyError | FramingError):
            return UpstreamBroken(f"provider {self._provider!r} {error}", provider=self._provider)
        return UpstreamBroken(
            f"the connection to provider {self._provider!r} broke",
            provider=self._provider,
            provider_text=f"{type(error).__name__}: {error}",
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            is_complete = exc_type is None and isinstance(self.decoder.end, Complete)
            if is_complete and not self._response.has_ended:
                async with asyncio.timeout(END_OF_BODY_S):
                    await self._content.drain(MAX_END_OF_BODY_BYTES)
        except (TimeoutError, aiohttp.ClientError, BodyError):
            pass  # the answer is complete, so only the connection is lost
        finally:
            self._slots.release()
            if self.decoder.problem:
                self._report(self.decoder.problem)
            self._response.release()


def _has_no_endpoint(error: BaseException) -> bool:
    """Return whether the error means that the server has no such endpoint, and not that the model is unknown.

    Many compatible servers have no endpoint that counts tokens.
    """
    if not isinstance(error, StatusError):
        return False
    if error.status != 404:
        return error.status in (405, 501)
    return not errors.is_unknown_model(error_body.parse(error.body))
