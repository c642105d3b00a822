"""`tokenwire chat`: one prompt, one answer, live."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tokenwire.v1.usage_pb2 import Usage

from ...client import AsyncClient
from ...errors import TokenwireError
from ..app import Arguments
from ..render import output
from ..report import Tally
from .chat_request import chat_request
from .client_for import client_for

USAGE_TIMEOUT_S = 1.0
"""How long an interrupted command may take to learn what the answer has cost."""


async def chat(arguments: Arguments) -> None:
    """Stream the answer to the prompt.

    When interrupted, cancel the generation, so that the server closes the provider's connection, and
    print what was used until then. The stream's id is printed on stderr: at the end, or at the start of
    a resumable stream, which another terminal may resume or cancel while it runs.

    Raises:
        TokenwireError: there is no answer, or no whole one.
    """
    screen = output(as_json=arguments.json)
    tally = Tally()
    summary: list[str] = []
    began = time.monotonic()
    async with client_for(arguments) as client:
        stream = client.chat_stream(
            chat_request(arguments), timeout=arguments.timeout_s, resumable=arguments.resumable
        )
        try:
            async with stream:
                if arguments.resumable:
                    screen.name(stream.stream_id)
                async for event in stream:
                    tally.add(event, time.monotonic() - began)
                    screen.show(event)
            summary.append(tally.finished_line(time.monotonic() - began))
        except asyncio.CancelledError:
            took_s = time.monotonic() - began
            usage = await _usage(client, stream.stream_id)
            summary.append(tally.cancelled_line(took_s, usage))
            raise
        finally:
            screen.end(*summary)
            if summary and not arguments.resumable:
                screen.name(stream.stream_id)


async def _usage(client: AsyncClient, stream_id: str) -> Usage | None:
    """What a stream that is being cancelled has used. None: nobody said so in time."""
    if stream_id:
        with contextlib.suppress(TokenwireError):
            info = await client.cancel(stream_id, timeout=USAGE_TIMEOUT_S)
            return info.usage if info.HasField("usage") else None
    return None
