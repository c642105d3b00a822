"""Reads prompts from a terminal, with line editing and a history."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HISTORY_VARIABLE = "TOKENWIRE_HISTORY"

MAX_HISTORY_LINES = 1000

FIRST, NEXT = "> ", "... "

_QUOTES = '"""'


@dataclass(frozen=True, slots=True)
class Typed:
    """The user's input: a prompt, or a command such as `/model NAME`."""

    text: str
    is_command: bool = False


class PromptReader:
    """Reads prompts of one or several lines. `read_line` shows a prompt and returns a line, as `input` does.

    A line that ends with a backslash continues on the next one. A line that begins with three double quotes
    begins a prompt of several lines, which ends at the next three.
    """

    def __init__(self, read_line: Callable[[str], str] = input) -> None:
        self._read_line = read_line
        self._readline = _readline()

    def read(self) -> Typed | None:
        """Return the next input, or None after Ctrl-D. Ctrl-D inside a prompt discards that prompt.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed: the prompt is discarded.
            UnicodeDecodeError: the line is not UTF-8.
        """
        try:
            line = self._read_line(FIRST)
        except EOFError:
            return None
        try:
            typed = self._rest_of(line)
        except EOFError:
            return Typed("")
        if self._readline is not None and typed.text.strip():
            self._readline.add_history(typed.text)
        return typed

    def _rest_of(self, line: str) -> Typed:
        """Read the further lines of a prompt."""
        if line.lstrip().startswith(_QUOTES):
            line = line.lstrip().removeprefix(_QUOTES)
            block = []
            while not line.rstrip().endswith(_QUOTES):
                block.append(line)
                line = self._read_line(NEXT)
            block.append(line.rstrip().removesuffix(_QUOTES))
            return Typed("\n".join(block).strip("\n"))
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self._read_line(NEXT)
        text = "\n".join([*lines, line])
        if text.startswith("//"):
            return Typed(text[1:])
        return Typed(text, is_command=text.startswith("/") and "\n" not in text)


class History:
    """The file of earlier prompts, as a context manager. Without TOKENWIRE_HISTORY there is none."""

    def __init__(self) -> None:
        name = os.environ.get(HISTORY_VARIABLE, "")
        self._path = Path(name).expanduser() if name else None
        self._readline = _readline()

    def __enter__(self) -> None:
        if self._readline is not None and self._path is not None:
            with suppress(OSError):
                self._readline.read_history_file(self._path)

    def __exit__(self, *_: object) -> None:
        if self._readline is not None and self._path is not None:
            with suppress(OSError):
                self._path.touch(mode=0o600)
                self._readline.set_history_length(MAX_HISTORY_LINES)
                self._readline.write_history_file(self._path)


def _readline() -> ModuleType | None:
    """Return the module `readline`, configured for prompts. None: this Python was built without it."""
    try:
        import readline
    except ImportError:
        return None
    if not sys.stdin.isatty():
        return None
    readline.set_auto_history(False)  # a prompt of several lines is one entry
    if "libedit" not in (readline.__doc__ or ""):
        # A text that is pasted is one prompt, and its line feeds do not send it.
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline
