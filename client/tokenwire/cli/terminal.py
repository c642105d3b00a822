"""The standard files of a command: safe text for terminals, error lines, and files that are closed.

All command lines use this module, so it imports nothing that is slow.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}
    | {0x0D: "", 0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)
_ON_ONE_LINE = str.maketrans("\t\n\r", "   ")

# JSON escapes only the control characters below 0x20. Terminals also obey these. In JSON they can only
# be in strings, where the escape has the same meaning.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def visible(text: str) -> str:
    """Replace control characters with visible ones, so that a model cannot control the terminal."""
    return text.translate(_VISIBLE)


def one_line(text: str) -> str:
    """Return text as one line without control characters."""
    return visible(text.translate(_ON_ONE_LINE))


def escape_json(text: str) -> str:
    """Escape the control characters that JSON allows but terminals obey."""
    return text.translate(_JSON_ESCAPES)


def json_text(value: object) -> str:
    """Return JSON on one line, without control characters."""
    return escape_json(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def write_stdout(text: str) -> None:
    """Write text to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(line: str) -> None:
    """Print a text as one line on stderr. Do nothing if stderr cannot be written."""
    try:
        print(visible(line.replace("\n", " ")), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def open_standard_files() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed.

    Otherwise a connection could get that descriptor, and printed text would be sent over it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # stays open


def discard(stream: TextIO) -> None:
    """Send the buffered output to /dev/null. Otherwise Python would flush it at exit and fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def flush_stderr() -> None:
    """Flush stderr, and discard what cannot be written."""
    try:
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)
