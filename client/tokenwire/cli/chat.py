"""`tokenwire chat`: one prompt, one answer, live."""

from __future__ import annotations

import asyncio
import time

from tokenwire.v1.chat_pb2 import GenerationConfig

from ..client import AsyncClient
from ..messages import system, user
from .arguments import Arguments
from .output import output
from .report import Tally


async def chat(arguments: Arguments) -> None:
    """Stream the answer to the prompt.

    Interrupted, it ends the call, so that the server closes the provider's connection, and says
    what had come until then.

    Raises:
        TokenwireError: there is no answer, or no whole one.
    """
    messages = [user(arguments.prompt)]
    if arguments.system is not None:
        messages.insert(0, system(arguments.system))
    generation = GenerationConfig(
        max_output_tokens=arguments.max_output_tokens, temperature=arguments.temperature
    )
    screen = output(as_json=arguments.json)
    tally = Tally()
    summary = ""
    began = time.monotonic()
    try:
        async with (
            AsyncClient(arguments.target) as client,
            client.chat_stream(
                arguments.model, messages, generation=generation, timeout=arguments.timeout_s
            ) as stream,
        ):
            async for event in stream:
                tally.add(event, time.monotonic() - began)
                screen.show(event)
        summary = tally.finished_line(time.monotonic() - began)
    except asyncio.CancelledError:
        summary = tally.cancelled_line(time.monotonic() - began)
        raise
    finally:
        screen.end(summary)
