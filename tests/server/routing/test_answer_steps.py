"""How a long text passes the stages of an answer."""

import asyncio

from tokenwire_server.events import TextDelta
from tokenwire_server.routing.attempt import STEP_CHARS, _append_in_steps


async def test_other_tasks_run_between_the_parts_of_a_long_text():
    log = []

    async def another():
        await asyncio.sleep(0)
        log.append("another task")

    running = asyncio.create_task(another())
    await asyncio.sleep(0)
    await _append_in_steps([TextDelta("x" * (STEP_CHARS + 1), 3)], log.append)
    await running
    assert log == [TextDelta("x" * STEP_CHARS, 3), "another task", TextDelta("x", 3)]
