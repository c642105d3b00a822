"""How much of an answer passes its stages before other tasks run."""

import asyncio
import time
from itertools import pairwise

import pytest

from tokenwire_server.config import FilterConfig
from tokenwire_server.content.choice import filter_stage
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.events import ReasoningDelta, TextDelta, TextInfo, ToolCallDelta
from tokenwire_server.routing.answer_steps import DELTA_CHARS, STEP_CHARS, append_in_steps

MAX_STEP_MS = 10
"""CPU time for which no other task may run. Measured: 1 to 2."""
PART = "x" * STEP_CHARS


async def steps(deltas):
    """Return what was appended before another task ran, each time."""
    found, step = [], []

    async def another():
        while True:
            await asyncio.sleep(0)
            found.append(step[:])
            step.clear()

    task = asyncio.create_task(another())
    await asyncio.sleep(0)
    await append_in_steps(deltas, step.append)
    task.cancel()
    return [each for each in [*found, step] if each]


@pytest.mark.parametrize(
    ("delta", "parts"),
    [
        (TextDelta(PART + "y", 3), [TextDelta(PART, 3), TextDelta("y", 3)]),
        (ToolCallDelta(3, PART + "y"), [ToolCallDelta(3, PART), ToolCallDelta(3, "y")]),
        (
            ReasoningDelta(PART + "y", 3, "signature", b"state"),
            [ReasoningDelta(PART, 3), ReasoningDelta("y", 3, "signature", b"state")],
        ),
    ],
    ids=["text", "arguments", "reasoning"],
)
async def test_other_tasks_run_between_the_parts_of_a_long_delta(delta, parts):
    assert await steps([delta]) == [[part] for part in parts]


async def test_other_tasks_run_between_many_deltas():
    short = TextDelta("x", 0)
    at_once = -(-STEP_CHARS // (DELTA_CHARS + 1))
    assert await steps([short] * (at_once + 1)) == [[short] * at_once, [short]]
    whole = TextDelta(PART, 0)
    assert await steps([whole, whole, TextInfo(0)]) == [[whole], [whole], [TextInfo(0)]]


FALSE_IBANS = "AA11 " * 820
"""At each of them may begin an IBAN, which has wrong check digits."""
TEN_RULES = {
    "action": "redact",
    "ready_made": ("iban", "card_number"),
    "patterns": tuple(rf"\b[A-Z]{{2}}[0-9]{{2}}{n}[0-9]{{30}}\b" for n in range(8)),
}


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"action": "redact", "patterns": ("a",)}, "a" * 4096),
        ({"action": "redact", "words": ("\u00e9",)}, "\u00e9 " * 2048),
        (TEN_RULES, FALSE_IBANS),
        (TEN_RULES, "1 " * 2048),
    ],
    ids=["matches", "words", "ibans", "cards"],
)
async def test_other_tasks_wait_only_briefly_for_a_filter(rules, text):
    (chosen,) = FilterSet.of({"f": FilterConfig(**rules)}).chosen("tenant", "model")
    stage = filter_stage(chosen)
    turns = []

    async def another():
        while True:
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    await asyncio.sleep(0)
    await append_in_steps([TextDelta(text, 0)] * 8, lambda delta: stage.feed([delta]))
    await asyncio.sleep(0)
    task.cancel()
    gaps_ms = [1000 * (after - before) for before, after in pairwise(turns)]
    print(f"{max(gaps_ms):.1f} ms")
    assert max(gaps_ms) < MAX_STEP_MS
