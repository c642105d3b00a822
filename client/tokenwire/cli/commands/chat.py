"""`tokenwire chat`: one prompt, one answer, live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from tokenwire.v1.event_pb2 import Finished
from tokenwire.v1.usage_pb2 import Usage

from ...aio.chat_stream import AsyncChatStream
from ...aio.client import AsyncClient
from ...errors import TokenwireError
from ..connection import Connection
from ..exit_codes import code_of_end
from ..render import Output, output
from ..report import Tally
from .chat_request import RequestOptions, chat_request

USAGE_TIMEOUT_S = 1.0
"""How long an interrupted command waits to learn what the answer has cost."""

INTERRUPT_WAIT_S = 0.1
"""How long to wait for SIGINT after the reader of stdout left. Ctrl-C signals the whole pipeline, and the
reader may be gone before the signal is handled here."""

SHOWN_WAIT_S = 1.0
"""Shortest wait of the client that is shown, in seconds. Without the line, the command would seem to hang."""


async def chat(
    connection: Connection,
    options: RequestOptions,
    *,
    timeout_s: float | None,
    as_json: bool,
    plain: bool,
    resumable: bool,
) -> int:
    """Stream the answer to the prompt. Return the exit code for its end.

    When interrupted, cancel the generation, so that the server closes the provider's connection, and
    print what was used until then. The stream's id is printed on stderr: at the end, or at the start of
    a resumable stream, which another terminal may resume or cancel while it runs.

    Raises:
        TokenwireError: there is no answer, or only a part of it.
    """
    screen = output(as_json=as_json, plain=plain, shows_values=options.json_schema is not None)
    async with connection.client() as client:
        stream = client.chat_stream(chat_request(options), timeout=timeout_s, resumable=resumable)
        finished = await show_answer(client, stream, screen, name_first=resumable)
    return code_of_end(finished)


async def show_answer(
    client: AsyncClient, stream: AsyncChatStream, screen: Output, *, name_first: bool = False
) -> Finished | None:
    """Show a new stream and its summary. Return how it ended.

    When interrupted, cancel the generation, and print the usage so far.

    Raises:
        TokenwireError: there is no answer, or only a part of it.
        asyncio.CancelledError: Ctrl-C was pressed.
    """
    tally = Tally()
    summary: list[str] = []
    interrupted = False
    began = time.monotonic()
    try:
        await show_events(stream, screen, tally, began, name_first=name_first)
        summary += tally.problem_lines()
        summary.append(tally.finished_line(time.monotonic() - began))
    except asyncio.CancelledError:
        interrupted = True
        took_s = time.monotonic() - began
        usage = await _usage(client, stream.stream_id)
        summary.append(tally.cancelled_line(took_s, usage))
        raise
    finally:
        screen.end(*summary, interrupted=interrupted)
        if summary and not name_first:
            screen.name(stream.stream_id)
    return tally.finished


async def show_events(
    stream: AsyncChatStream, screen: Output, tally: Tally, began: float, *, name_first: bool = False
) -> None:
    """Show and count the events of a stream until its end. `name_first`: show its id before them.

    Raises:
        TokenwireError: the stream failed.
        BrokenPipeError: the reader of stdout left.
        asyncio.CancelledError: Ctrl-C was pressed, which may have ended the reader of stdout too.
    """
    try:
        with _show_waits(screen):
            async with stream:
                named = stream.stream_id
                if name_first:
                    screen.name(named)
                async for event in stream:
                    if name_first and stream.stream_id != named:  # it was started again
                        named = stream.stream_id
                        screen.name(named)
                    tally.add(event, time.monotonic() - began)
                    screen.show(event)
    except BrokenPipeError:
        await asyncio.sleep(INTERRUPT_WAIT_S)
        raise


class _WaitHandler(logging.Handler):
    """Shows warnings of the client, and records that announce a long wait."""

    def __init__(self, screen: Output) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or getattr(record, "wait_s", 0.0) >= SHOWN_WAIT_S:
            try:
                self._screen.note(record.getMessage())
            except OSError:
                pass  # if stdout is broken, writing the next event raises it
            except Exception:  # noqa: BLE001  # it must not replace the error that is logged
                self.handleError(record)


@contextlib.contextmanager
def _show_waits(screen: Output) -> Iterator[None]:
    """Show why the client waits before it retries a request or resumes a stream."""
    logger, handler = logging.getLogger("tokenwire"), _WaitHandler(screen)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root logger would write into the answer
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


async def _usage(client: AsyncClient, stream_id: str) -> Usage | None:
    """Cancel a stream and return what it used. Return None if the server does not answer in time."""
    if stream_id:
        with contextlib.suppress(TokenwireError):
            info = await client.cancel(stream_id, timeout=USAGE_TIMEOUT_S)
            return info.usage if info.HasField("usage") else None
    return None
