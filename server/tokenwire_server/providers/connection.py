"""One connection to a provider: writing requests, parsing responses, and bounds on the framing of responses.

The HTTP parser has no bounds on heads, responses of status 1xx before the answer, zeros before a chunk's
size, chunk extensions and trailers. The code that waits for the answer sees none of these, and parsing them
can keep a core busy.
"""

from __future__ import annotations

import asyncio
import select
from typing import cast

import aiohttp
import httptools

from .response import MAX_WAITING_BYTES, BrokenResponse, Response

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of everything before the body: responses of status 1xx, status line and headers. Some
gateways send headers of 10 KB."""
MAX_FRAMING_BYTES = 64 * 1024
"""Maximum size of chunk sizes, extensions and trailers, beyond `FRAMING_RATIO` for each byte of the body that
arrives with them. A long body does not permit a long trailer, which the parser would copy in each step."""
FRAMING_RATIO = 8
"""Bytes of framing that are accepted for each byte of the body. A chunk of one byte has five."""

STEP_BYTES = 8 * 1024
"""Bytes that are parsed at once. In the worst case, chunks of one byte each, they take 1 ms."""
MAX_PUSH_BYTES = 8 * 1024
"""Bytes of the body that are passed on in the callback in which they arrive. In the worst case, SSE comments
of three bytes each, they take 1.5 ms to decode."""
MAX_WRITE_BYTES = 128 * 1024
"""Bytes of a request that are written at once. TLS takes 1 ms for them."""
_CHECK_BYTES = 64 * 1024
"""Bytes that are received between two checks of the framing."""
_QUOTED_BYTES = 40
_NOTHING = memoryview(b"")


class FramingError(aiohttp.ClientPayloadError):
    """The answer's framing exceeds a bound. `str(error)` contains nothing that the provider sent."""


class InvalidResponse(aiohttp.ClientError):
    """The connection received data that is not HTTP. The text quotes the first bytes if no response began."""


class ProviderConnection(asyncio.Protocol):
    """The protocol of a connection in aiohttp's pool: one request and its response at a time.

    Large requests are written in steps, and received data is parsed in steps. The connection pauses the
    transport while parsed or unparsed data waits. The pool uses `transport`, `should_close`, `closed`,
    `is_connected`, `close` and `abort`.
    """

    __slots__ = (
        "_check_at_bytes",
        "_checked_body_bytes",
        "_closed",
        "_excess_bytes",
        "_has_ended_input",
        "_is_paused",
        "_is_scheduled",
        "_is_writing_paused",
        "_loop",
        "_lost_error",
        "_received_bytes",
        "_response",
        "_unparsed",
        "_unsent",
        "parser",
        "push_room_bytes",
        "should_close",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: asyncio.Transport | None = None
        self.should_close = False
        """Whether the connection cannot be used for another request."""
        self.push_room_bytes = 0
        """Bytes that may still be pushed of what arrived at once, see `Response.push`."""
        self._closed: asyncio.Future[None] | None = None
        self._response: Response | None = None
        """The response that is received."""
        self.parser: httptools.HttpResponseParser | None = None
        """The parser of the response that is received. The two refer to each other."""
        self._received_bytes = 0
        """Bytes parsed since the last check of the framing."""
        self._check_at_bytes = 0
        self._checked_body_bytes = 0
        """Size of the body at the last check."""
        self._excess_bytes = 0
        """Bytes of framing beyond those that the body permits."""
        self._unsent = _NOTHING
        """The part of the request that has not been written yet."""
        self._is_writing_paused = False
        self._unparsed = _NOTHING
        """Received data that has not been parsed yet."""
        self._is_scheduled = False
        """Whether the next step is scheduled."""
        self._is_paused = False
        self._has_ended_input = False
        """Whether nothing more arrives."""
        self._lost_error: Exception | None = None

    @property
    def closed(self) -> asyncio.Future[None] | None:
        """A future that is done when the connection is closed, or None if it is."""
        if self._closed is None and self.transport is not None:
            self._closed = self._loop.create_future()
        return self._closed

    def is_connected(self) -> bool:
        """Whether the connection is open and, if it is idle, whether nothing has arrived on it.

        The next request would otherwise be answered by data that the system has received and the event loop
        has not read yet, or fail because the provider has closed the connection.
        """
        if not self._is_open:
            return False
        return self._response is not None or not self._is_readable

    @property
    def _is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    @property
    def _is_readable(self) -> bool:
        """Whether the system has received data, or the end of the connection. This takes 1 us."""
        transport = self.transport
        transport_socket = transport.get_extra_info("socket") if transport is not None else None
        if transport_socket is None:
            return False
        poll = select.poll()
        poll.register(transport_socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close the connection immediately. Nothing that waits is sent or parsed."""
        self._drop(BrokenResponse("the connection was closed"))

    close = abort
    """The transport's `close` would send the rest of a prompt first, and wait 30 s for the end of TLS."""

    def send(self, response: Response, head: bytes, body: bytes) -> None:
        """Send a request. What arrives from now on belongs to `response`, until it has ended."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionError("the connection is closed")
        self.should_close = True  # until the response is complete
        self._received_bytes = self._checked_body_bytes = self._excess_bytes = 0
        self._check_at_bytes = STEP_BYTES
        self._response = response
        self.parser = httptools.HttpResponseParser(response)
        # As browsers do. Some servers end lines with LF, or add a space after the size of a chunk.
        self.parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        if len(body) > MAX_WRITE_BYTES:
            self._unsent = memoryview(body)
            transport.write(head)
            self._write_next()
        else:
            transport.writelines((head, body))

    @property
    def has_unsent(self) -> bool:
        """Whether a part of the request has not been passed to the system yet."""
        return bool(self._unsent) or (
            self.transport is not None and self.transport.get_write_buffer_size() > 0
        )

    @property
    def has_unparsed(self) -> bool:
        """Whether bytes of the response have arrived that are not parsed yet."""
        return bool(self._unparsed)

    def resume(self) -> None:
        """Continue after the reader of the response has taken what was waiting."""
        if self._unparsed:
            self._schedule_step()
        elif self._is_paused and self.transport is not None and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:  # no request was sent, or its response has ended
            self.abort()
            return
        if len(data) > STEP_BYTES or self._unparsed:
            waiting = self._unparsed
            self._unparsed = memoryview(bytes(waiting) + data if waiting else data)
            self._pause()
            if not self._is_full:  # otherwise `resume` continues
                self._schedule_step()
            return
        self.push_room_bytes = MAX_PUSH_BYTES
        self._parse(data)
        if response.buffer and self._is_full:
            self._pause()

    def eof_received(self) -> None:
        """End the response, although the transport stays open until all of the request is sent."""
        self._end_input(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._unsent = _NOTHING
        self._end_input(exc)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._unsent:
            self._loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        """Write the next bytes of a large request. Other tasks run before the ones after them."""
        if self._is_writing_paused or not self._unsent or not self._is_open:
            return
        piece = self._unsent[:MAX_WRITE_BYTES]
        self._unsent = self._unsent[MAX_WRITE_BYTES:] or _NOTHING
        cast("asyncio.Transport", self.transport).write(piece)
        if self._unsent and not self._is_writing_paused:
            self._loop.call_soon(self._write_next)

    @property
    def _is_full(self) -> bool:
        """Whether enough waits for the reader of the response."""
        response = self._response
        return response is not None and len(response.buffer) > MAX_WAITING_BYTES

    def _pause(self) -> None:
        if not self._is_paused and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()

    def _schedule_step(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Parse the next bytes. Other tasks run before each step, and the next one waits for the reader."""
        self._is_scheduled = False
        if not self._unparsed:  # the response has failed, or was closed
            return
        step = self._unparsed[:STEP_BYTES]
        # An empty view would keep all of the data.
        self._unparsed = self._unparsed[STEP_BYTES:] or _NOTHING
        self.push_room_bytes = 0
        self._parse(step)
        if self._unparsed:
            if not self._is_full:
                self._schedule_step()
        elif self._has_ended_input:
            self._end_with_connection()
        elif not self._is_full:
            self.resume()

    def _parse(self, data: bytes | memoryview) -> None:
        parser, response = self.parser, self._response
        if parser is None or response is None:
            return
        self._received_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end(response)
            return
        except httptools.HttpParserError as error:
            if response.has_ended:  # there is more after its end
                self._end(response)
            else:
                self._drop(_invalid(error, b"" if response.status else bytes(data[:_QUOTED_BYTES])))
            return
        if response.has_ended:
            self._end(response, is_reusable=response.keeps_connection)
        elif self._received_bytes >= self._check_at_bytes:
            self._check(response)

    def _check(self, response: Response) -> None:
        """Fail the response if its head or its framing is too large."""
        if not response.status:
            if self._received_bytes > MAX_HEAD_BYTES:
                text = f"sent more than {MAX_HEAD_BYTES // 1024} KiB before its answer"
                self._drop(FramingError(text))
            return
        body_bytes = response.body_bytes - self._checked_body_bytes
        around_bytes = self._received_bytes - body_bytes
        self._excess_bytes = max(0, self._excess_bytes + around_bytes - FRAMING_RATIO * body_bytes)
        self._checked_body_bytes = response.body_bytes
        self._received_bytes, self._check_at_bytes = 0, _CHECK_BYTES
        if self._excess_bytes > MAX_HEAD_BYTES + MAX_FRAMING_BYTES:
            text = f"sent {around_bytes // 1024} KiB around {body_bytes} bytes of its answer"
            self._drop(FramingError(text))

    def _end(self, response: Response, *, is_reusable: bool = False) -> None:
        """End a complete response. Data after it is dropped, and the connection is then not reused."""
        self.parser = self._response = None
        response.end()
        if is_reusable and not self._unparsed and not self._has_ended_input:
            self.should_close = False
            self.resume()
        else:
            self._unparsed = _NOTHING
            self.should_close = True

    def _drop(self, error: Exception) -> None:
        """Fail the response, if there is one, and close the connection immediately."""
        response = self._response
        self.parser = self._response = None
        self._unparsed = self._unsent = _NOTHING
        self.should_close = True
        if response is not None:
            response.fail(error)
        if self.transport is not None:
            self.transport.abort()

    def _end_input(self, error: Exception | None) -> None:
        """Accept that nothing more arrives. Waiting data is still parsed."""
        self.should_close = True
        if self._has_ended_input:
            return
        self._has_ended_input, self._lost_error = True, error
        if not self._unparsed:
            self._end_with_connection()

    def _end_with_connection(self) -> None:
        """End the response after the connection has ended and all data is parsed."""
        response, error = self._response, self._lost_error
        self.parser = self._response = None
        if response is None:
            return
        if response.ends_with_connection and error is None:
            response.end()
            return
        when = "response" if response.status else "head of the response"
        broken = BrokenResponse(f"the connection ended before the end of the {when}")
        broken.__cause__ = error
        response.fail(broken)


def _invalid(error: httptools.HttpParserError, data: bytes) -> InvalidResponse:
    """Return the error for what is not HTTP. `data` is quoted: no part of a body."""
    text = str(error.__context__ or error)  # the context is what a method of the response raised
    invalid = InvalidResponse(f"{text}: {data!r}" if data else text)
    invalid.__cause__ = error.with_traceback(None)
    return invalid
