"""One answer of a provider: sending the request, and decoding the body.

The body is read as bytes, and decoded by our own sans-IO decoder: a typed stream of the official SDK takes 5
to 8 times the CPU per token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from ..errors import UpstreamBroken, UpstreamError, UpstreamUnavailable
from ..events import Delta
from .base import Dialect
from .body import Body
from .connection import FramingError
from .decode.base import Complete, Decoder
from .decode.errors import body as error_body
from .decode.errors.body import MAX_LOG_CHARS
from .fault import Faults
from .http import RequestError, Sender
from .inflate import BodyError
from .opening import MAX_START_BYTES, Opening
from .slots import ConnectionSlots

MAX_TURN_DELTAS = 256
"""Maximum number of deltas that a read returns. To append them to a log with eight readers takes 1 ms."""
END_OF_BODY_S = 0.25
MAX_END_OF_BODY_BYTES = 64 * 1024
"""Bounds on reading the rest of the body after a complete answer, so that the connection can be reused."""


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
        self._waiting: Sequence[Delta] = ()
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
            self._content.bytes_without_content = 0
            if len(deltas) > MAX_TURN_DELTAS:
                return self._first_of(deltas)
        if self.decoder.end is not None:
            self._take_end()
        return deltas

    async def push(self, take: Callable[[list[Delta]], bool]) -> None:
        """See `base.Upstream`."""
        if self._waiting or self._opening is not None or self.end is not None:
            return
        response = self._content.pushing
        if response is None:
            return
        self._take = take
        try:
            await response.push(self._receive)
        except BodyError as error:
            self.end = self.decoder.end = self._broken(error)
        finally:
            self._take = None

    def _receive(self, data: bytes) -> bool:
        """Decode a piece in `push`. Return whether to continue."""
        deltas = self.decoder.feed(data)
        if not deltas:
            self._content.count_without_content(len(data))
        else:
            self._content.bytes_without_content = 0
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

    def _first_of(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Return the first deltas, and keep the others for the next reads."""
        self._waiting = deltas[MAX_TURN_DELTAS:]
        if not self._waiting:
            self._take_end()
        return [*deltas[:MAX_TURN_DELTAS]]

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
