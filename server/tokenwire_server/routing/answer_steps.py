"""Passes an answer to its stages in steps that other tasks can run between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from ..events import Delta, ReasoningDelta, TextDelta, ToolCallDelta

STEP_CHARS = 256
"""Characters that pass the stages at once. A filter takes up to 4 us for each: if all are matches."""
DELTA_CHARS = 8
"""A delta takes the stages about as long as so many characters, in addition to its own."""


def is_one_step(deltas: Sequence[Delta]) -> bool:
    """Return whether deltas are one short text, as usual: `append_in_steps` would append it at once."""
    return (
        len(deltas) == 1
        and isinstance(delta := deltas[0], TextDelta)
        and len(delta.text) < STEP_CHARS - DELTA_CHARS
    )


async def _let_others_run() -> None:
    await asyncio.sleep(0)


async def append_in_steps(
    deltas: Sequence[Delta],
    append: Callable[[Delta], object],
    rest: Callable[[], Awaitable[None]] = _let_others_run,
) -> None:
    """Append deltas. After each STEP_CHARS characters, `rest` lets other tasks run: a long delta is split."""
    left_chars = STEP_CHARS
    for delta in deltas:
        chars = _chars(delta)
        if chars > STEP_CHARS:
            for part in _parts(delta):
                append(part)
                await rest()
            left_chars = STEP_CHARS
            continue
        append(delta)
        left_chars -= DELTA_CHARS + chars
        if left_chars <= 0:
            await rest()
            left_chars = STEP_CHARS


def _chars(delta: Delta) -> int:
    if isinstance(delta, TextDelta):
        return len(delta.text)
    if isinstance(delta, ReasoningDelta):
        return len(delta.text)
    return len(delta.arguments_json) if isinstance(delta, ToolCallDelta) else 0


def _parts(delta: Delta) -> Iterator[Delta]:
    """Split a delta into parts of at most STEP_CHARS characters."""
    if isinstance(delta, TextDelta):
        for text in _cut(delta.text):
            yield TextDelta(text, delta.index)
    elif isinstance(delta, ToolCallDelta):
        for text in _cut(delta.arguments_json):
            yield ToolCallDelta(delta.index, text)
    elif isinstance(delta, ReasoningDelta):
        *texts, last = _cut(delta.text)
        for text in texts:
            yield ReasoningDelta(text, delta.index)
        yield ReasoningDelta(last, delta.index, delta.signature, delta.provider_state)
    else:
        yield delta


def _cut(text: str) -> list[str]:
    return [text[at : at + STEP_CHARS] for at in range(0, len(text), STEP_CHARS)]
