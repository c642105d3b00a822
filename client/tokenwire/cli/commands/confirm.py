"""`tokenwire chat --confirm-over`: what an answer may cost is said, and asked about, before it costs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from ...channel import LOOKUP_TIMEOUT_S
from ...usage import TokenCount
from ..app import Arguments
from ..money import usd_text
from ..render import say, visible
from .count import counted_request

_TERMINAL = "/dev/tty"


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why to ask before a request is sent, and what else to do where nobody can be asked."""

    why: str
    way_out: str = "give --max-cost, or a higher --confirm-over"


def confirmed(arguments: Arguments) -> bool:
    """Whether the chat may begin: it costs little enough, or somebody at the terminal agrees.

    Outside of any event loop, so that Ctrl-C ends a question that nobody answers. Without a terminal, and
    where the answer is no, it says so.

    Raises:
        TokenwireError: the request would be refused, or nobody counted.
        KeyboardInterrupt: as an answer.
    """
    timeout_s = LOOKUP_TIMEOUT_S
    if arguments.timeout_s is not None:
        timeout_s = min(timeout_s, arguments.timeout_s)
    counted = asyncio.run(counted_request(arguments, timeout_s=timeout_s))
    doubt = doubt_about(counted, arguments)
    if doubt is None:
        return True
    with _terminal(prompt_from_stdin=arguments.prompt_from_stdin) as terminal:
        if terminal is None:
            say(f"tokenwire: {doubt.why}, and there is no terminal to ask at: {doubt.way_out}")
            return False
        reading, writing = terminal
        writing.write(visible(f"{doubt.why}: go on? [y/N] "))
        writing.flush()
        answer = _line(reading)
        if not answer.endswith("\n"):  # Ctrl-D
            writing.write("\n")
    agreed = answer.strip().lower() in ("y", "yes")
    if not agreed:
        say("tokenwire: nothing was sent")
    return agreed


def doubt_about(counted: TokenCount, arguments: Arguments) -> Doubt | None:
    """Why to ask before this request is sent. None: there is no need to."""
    bearable = arguments.confirm_over_microusd
    if bearable is None or counted.exceeds_budget:  # which the server refuses, at no cost
        return None
    budget, at_most = arguments.max_cost_microusd, counted.max_cost_microusd
    if budget is not None:  # where the server stops it
        at_most = budget if at_most is None else min(at_most, budget)
    if at_most is not None:
        return Doubt(f"this may cost up to {usd_text(at_most)}") if at_most > bearable else None
    if counted.input_cost_microusd is None:
        model = f"{counted.provider}/{counted.model}"
        return Doubt(f"nobody knows what {model} costs", "leave --confirm-over out")
    if counted.input_cost_microusd > bearable:
        return Doubt(f"the input alone may cost {usd_text(counted.input_cost_microusd)}")
    return None


@contextlib.contextmanager
def _terminal(*, prompt_from_stdin: bool) -> Iterator[tuple[TextIO, TextIO] | None]:
    """Where to read an answer, and where to ask: the terminal that stdin and stderr are.

    A prompt that came through a pipe leaves the terminal that the command was started from. None: there
    is nobody to ask.
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
        return "\n"  # whatever it was, it is no yes


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()
