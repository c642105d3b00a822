"""Scripts of models that call tools, for the scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tokenwire.v1 import event_pb2, usage_pb2
from tokenwire.v1.event_pb2 import FINISH_REASON_STOP, FINISH_REASON_TOOL_CALLS

from .conftest import Context, Script, accept, event, started, text

Call = tuple[str, str]
"""Name and arguments."""


def calls_tools(*rounds: Sequence[Call], cost: int = 5) -> Script:
    """Return a script whose answers call these tools, in the order of the requests. The last one is text."""
    count = 0

    async def script(request: Any, context: Context) -> None:
        nonlocal count
        calls = rounds[count] if count < len(rounds) else ()
        count += 1
        await accept(context)
        await context.write(started())
        sequence = 2
        for name, arguments in calls:
            call = event_pb2.ToolCall(
                id=f"call_{count}_{sequence}", name=name, arguments_json=arguments
            )
            done = event_pb2.ToolCallDone(index=sequence, tool_call=call)
            await context.write(event(sequence, tool_call=done))
            sequence += 1
        if not calls:
            await context.write(text(sequence, "Done."))
        reason = FINISH_REASON_TOOL_CALLS if calls else FINISH_REASON_STOP
        usage = usage_pb2.Usage(input_tokens=10, output_tokens=1, cost_microusd=cost)
        finished = event_pb2.Finished(reason=reason, usage=usage)
        await context.write(event(sequence + 1, finished=finished))

    return script


def calls_then_waits(*calls: Call) -> Script:
    """Return a script that calls tools, and whose second answer does not end."""
    first = calls_tools(calls)
    is_first = True

    async def script(request: Any, context: Context) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await first(request, context)
        else:
            await accept(context)
            await context.write(started())
            await asyncio.Event().wait()

    return script


def results_of(messages: Any) -> list[tuple[str, bool]]:
    """Return the text of each tool result, and whether it is an error."""
    return [
        (part.tool_result.text, part.tool_result.is_error)
        for message in messages
        for part in message.parts
        if part.HasField("tool_result")
    ]
