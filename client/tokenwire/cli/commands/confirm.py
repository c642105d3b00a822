"""`tokenwire chat --confirm-over`: show what an answer may cost, and ask before sending the request."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TextIO

from ...connect.channel import LOOKUP_TIMEOUT_S
from ...wire.usage import TokenCount
from ..connection import Connection
from ..money import usd_decimal, usd_text
from ..terminal import one_line, say
from .chat_request import RequestOptions
from .count import counted_request

_TERMINAL = "/dev/tty"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Why a request must be confirmed before it is sent."""

    why: str
    way_out: str
    """What to pass instead if there is no terminal."""
    cost_microusd: int | None
    """The cost to confirm. None: unknown."""
    is_within_budget: bool = False
    """Whether even the longest answer costs no more than `--max-cost`."""


def confirmed(
    connection: Connection,
    options: RequestOptions,
    *,
    threshold_microusd: int,
    timeout_s: float | None,
    prompt_from_stdin: bool,
) -> bool:
    """Return whether the chat may begin: it is cheap enough, or somebody at the terminal agrees.

    Without a terminal it may also begin if even the longest answer fits in `--max-cost`. If it may not
    begin, an error line says why. Call it outside any event loop, so that Ctrl-C ends the question.

    Raises:
        TokenwireError: the request would be refused, or it could not be counted.
        KeyboardInterrupt: the user pressed Ctrl-C at the question.
    """
    timeout_s = LOOKUP_TIMEOUT_S if timeout_s is None else min(timeout_s, LOOKUP_TIMEOUT_S)
    counted = asyncio.run(_counted_requests(connection, options, timeout_s))
    budget = options.max_cost_microusd
    each_needed = [needed_confirmation(count, budget, threshold_microusd) for count in counted]
    needed = max(filter(None, each_needed), key=_rank, default=None)
    if needed is None:
        return True
    agreed = ask(f"{needed.why}: continue? [y/N] ", prompt_from_stdin=prompt_from_stdin)
    if agreed is None:
        if needed.is_within_budget:
            return True
        say(f"tokenwire: {needed.why}, and there is no terminal to confirm it: {needed.way_out}")
        return False
    if not agreed:
        say("tokenwire: nothing was sent")
    return agreed


def ask(question: str, *, prompt_from_stdin: bool) -> bool | None:
    """Ask a question on the terminal, and return whether the answer is yes. None: there is no terminal.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C at the question.
    """
    with _terminal(prompt_from_stdin=prompt_from_stdin) as terminal:
        if terminal is None:
            return None
        reading, writing = terminal
        writing.write(one_line(question))
        writing.flush()
        answer = _line(reading)
        if not answer.endswith("\n"):  # Ctrl-D
            writing.write("\n")
    return answer.strip().lower() in ("y", "yes")


async def _counted_requests(
    connection: Connection, options: RequestOptions, timeout_s: float
) -> list[TokenCount]:
    """Count the request at its model and at each fallback: any of them may answer."""
    models = (options.model, *options.fallback_models)
    return await asyncio.gather(
        *(
            counted_request(
                connection, replace(options, model=model, fallback_models=()), timeout_s=timeout_s
            )
            for model in models
        )
    )


def _rank(needed: Confirmation) -> tuple[float, bool]:
    """Return the key of the comparison: the highest cost is confirmed, and an unknown one before all."""
    cost = math.inf if needed.cost_microusd is None else needed.cost_microusd
    return cost, not needed.is_within_budget


def needed_confirmation(
    counted: TokenCount, budget_microusd: int | None, threshold_microusd: int
) -> Confirmation | None:
    """Return why this request must be confirmed. Return None if it need not be."""
    if counted.exceeds_budget:  # the server refuses it, at no cost
        return None
    longest = counted.max_cost_microusd
    limits = [cost for cost in (longest, budget_microusd) if cost is not None]
    if limits:  # at the budget, the server ends the answer
        at_most = min(limits)
        if at_most <= threshold_microusd:
            return None
        accept = f"--confirm-over {usd_decimal(at_most)}"
        within = longest is not None and budget_microusd is not None and longest <= budget_microusd
        return Confirmation(
            f"this may cost up to {usd_text(at_most)}",
            f"pass {accept} to accept this cost, or limit the answer with --max-output-tokens",
            at_most,
            is_within_budget=within,
        )
    input_cost = counted.input_cost_microusd
    if input_cost is None:
        model = f"{counted.provider}/{counted.model}"
        return Confirmation(f"the price of {model} is not known", "leave out --confirm-over", None)
    if input_cost > threshold_microusd:
        return Confirmation(
            f"the input alone may cost {usd_text(input_cost)}",
            f"pass --confirm-over {usd_decimal(input_cost)} to accept this cost",
            input_cost,
        )
    return None


@contextlib.contextmanager
def _terminal(*, prompt_from_stdin: bool) -> Iterator[tuple[TextIO, TextIO] | None]:
    """Open the terminal, to read an answer and to write the question. Yield None if there is none.

    If the prompt came through a pipe, this is the terminal from which the command was started.
    """
    if _is_terminal(sys.stdin) and _is_terminal(sys.stderr):
        yield sys.stdin, sys.stderr
        return
    if not prompt_from_stdin and not _is_terminal(sys.stdin):
        yield None
        return
    with contextlib.ExitStack() as opened:
        try:
            reading = opened.enter_context(open(_TERMINAL))  # noqa: PTH123  # a device, not a path
            writing = opened.enter_context(open(_TERMINAL, "w"))  # noqa: PTH123
        except OSError:
            yield None
            return
        yield reading, writing


def _line(reading: TextIO) -> str:
    try:
        return reading.readline()
    except UnicodeDecodeError:
        return "\n"  # not a yes


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()
