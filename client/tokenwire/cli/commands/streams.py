"""`tokenwire resume` and `tokenwire cancel`: streams that another command opened."""

from __future__ import annotations

import asyncio
import time

from ..connection import Connection
from ..exit_codes import code_of_end
from ..proto_json import write_json
from ..render import output
from ..report import Tally, resume_command, stream_text
from ..terminal import write_stdout
from .chat import show_events


async def resume(
    connection: Connection,
    stream_id: str,
    after_sequence: int,
    *,
    timeout_s: float | None,
    as_json: bool,
    plain: bool,
) -> int:
    """Show the events after the cursor, then new ones. Return the exit code for the stream's end.

    When interrupted, leave the stream running.

    Raises:
        TokenwireError: the stream does not exist, or it failed.
    """
    screen = output(as_json=as_json, plain=plain)
    tally = Tally(resumed=True)
    summary: list[str] = []
    interrupted = False
    began = time.monotonic()
    async with connection.client() as client:
        stream = client.resume(stream_id, after_sequence, timeout=timeout_s)
        try:
            await show_events(stream, screen, tally, began)
            summary += tally.problem_lines()
            summary.append(tally.finished_line(time.monotonic() - began))
        except asyncio.CancelledError:
            interrupted = True
            command = resume_command(connection, stream.stream_id, stream.last_sequence)
            summary.append(f"left after event {stream.last_sequence}; continue with: {command}")
            raise
        finally:
            screen.end(*summary, interrupted=interrupted)
    return code_of_end(tally.finished)


async def cancel(
    connection: Connection, stream_id: str, *, timeout_s: float, as_json: bool
) -> None:
    """Cancel a stream, and print how it ended: one line, for people and programs.

    Raises:
        TokenwireError: the stream does not exist, or the server did not answer.
    """
    async with connection.client() as client:
        info = await client.cancel(stream_id, timeout=timeout_s)
    if as_json:
        write_json(info)
    else:
        write_stdout(stream_text(info) + "\n")
