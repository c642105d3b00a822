"""How a long text passes the stages of an answer."""

import asyncio

import pytest

from tokenwire_server.events import ReasoningDelta, TextDelta, ToolCallDelta
from tokenwire_server.routing.attempt import STEP_CHARS, _append_in_steps


async def appended(delta):
    """Return what is appended, and what another task does in the meantime."""
    log = []

    async def another():
        await asyncio.sleep(0)
        log.append("another task")

    running = asyncio.create_task(another())
    await asyncio.sleep(0)
    await _append_in_steps([delta], log.append)
    await running
    return log


FIRST, REST = "x" * STEP_CHARS, "y"


@pytest.mark.parametrize(
    ("whole", "first", "rest"),
    [
        (TextDelta(FIRST + REST, 3), TextDelta(FIRST, 3), TextDelta(REST, 3)),
        (ToolCallDelta(3, FIRST + REST), ToolCallDelta(3, FIRST), ToolCallDelta(3, REST)),
        (
            ReasoningDelta(FIRST + REST, 3, "signature", b"state"),
            ReasoningDelta(FIRST, 3),
            ReasoningDelta(REST, 3, "signature", b"state"),
        ),
    ],
)
async def test_other_tasks_run_between_the_parts_of_a_long_text(whole, first, rest):
    assert await appended(whole) == [first, "another task", rest]


@pytest.mark.parametrize(
    "delta",
    [TextDelta(FIRST, 3), ToolCallDelta(3, FIRST), ReasoningDelta("", 3, "signature", b"state")],
)
async def test_shorter_texts_pass_at_once(delta):
    assert await appended(delta) == [delta, "another task"]
