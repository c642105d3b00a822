"""`tokenwire resume` and `tokenwire cancel`: streams that were begun elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time

from ..app import Arguments
from ..render import output, write_json
from ..report import Tally, resume_command, stream_text
from .client_for import client_for


async def resume(arguments: Arguments) -> None:
    """Show what follows the cursor, then what comes. Interrupted, it leaves the stream to itself.

    Raises:
        TokenwireError: there is no such stream, or it did not end well.
    """
    screen = output(as_json=arguments.json)
    tally = Tally(resumed=True)
    summary: list[str] = []
    began = time.monotonic()
    async with client_for(arguments) as client:
        stream = client.resume(
            arguments.stream_id, arguments.after_sequence, timeout=arguments.timeout_s
        )
        try:
            async with stream:
                async for event in stream:
                    tally.add(event, time.monotonic() - began)
                    screen.show(event)
            summary.append(tally.finished_line(time.monotonic() - began))
        except asyncio.CancelledError:
            command = resume_command(arguments, stream.stream_id, stream.last_sequence)
            summary.append(f"left after event {stream.last_sequence}; go on with: {command}")
            raise
        finally:
            screen.end(*summary)


async def cancel(arguments: Arguments) -> None:
    """Cancel a stream, and print how it ended: a line for people and programs alike.

    Raises:
        TokenwireError: there is no such stream, or the server did not tell.
    """
    async with client_for(arguments) as client:
        info = await client.cancel(arguments.stream_id, timeout=arguments.timeout_s)
    if arguments.json:
        write_json(info)
    else:
        sys.stdout.write(stream_text(info) + "\n")
        sys.stdout.flush()
