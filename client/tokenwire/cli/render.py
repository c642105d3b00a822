"""Where a stream's events are shown, each at once: a terminal, a pipe, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.event_pb2 import TokenEvent, ToolCall

if TYPE_CHECKING:
    from rich.table import Table

_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}
    | {0x0D: "", 0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)

_MAX_TABLE_COLUMNS = 100_000

# JSON escapes only the controls below 0x20; terminals obey these too. In JSON they can only stand
# in strings, where the escape means the same.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def visible(text: str) -> str:
    """Text with its control characters made visible: a model must not command a terminal."""
    return text.translate(_VISIBLE)


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


def write_json(message: ProtoMessage) -> None:
    """One line of proto JSON on stdout."""
    line = MessageToJson(message, indent=None, ensure_ascii=False)
    _write(line.translate(_JSON_ESCAPES) + "\n")


def write_json_line(value: object) -> None:
    """One line of JSON on stdout, of what is no message."""
    _write(json_text(value) + "\n")


def json_text(value: object) -> str:
    """JSON on one line, which commands no terminal."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).translate(_JSON_ESCAPES)


def print_table(table: Table) -> None:
    """Print a table at its natural width. A row that is wider than the terminal is never cut: the
    terminal wraps it, and an id can still be copied whole.
    """
    from rich.console import Console

    for column in table.columns:
        column.no_wrap = True
    console = Console(highlight=False)
    Console(highlight=False, width=max(console.width, natural_width(table))).print(table)


def natural_width(table: Table) -> int:
    """Return the width of a table, in characters, when no cell is wrapped or cut."""
    from rich.console import Console

    console = Console(highlight=False)
    unbounded = console.options.update(max_width=_MAX_TABLE_COLUMNS)
    return console.measure(table, options=unbounded).maximum


def stream_line(stream_id: str) -> str:
    """Return the line that shows a stream's id."""
    return f"stream {stream_id}"


class Output(Protocol):
    """Shows the events of one stream."""

    def show(self, event: TokenEvent) -> None:
        """Show one event, and return when it has been written."""

    def name(self, stream_id: str) -> None:
        """Show the stream's id on stderr, before the first event or after the end."""

    def end(self, *summary: str) -> None:
        """Finish the output, and print the summary's lines on stderr. Call it once for each stream."""


def output(*, as_json: bool) -> Output:
    """What fits where stdout goes."""
    if as_json:
        return JsonOutput()
    return TerminalOutput() if sys.stdout.isatty() else PlainOutput()


class JsonOutput:
    """Every event as a line of proto JSON, those of a type unknown here too."""

    def show(self, event: TokenEvent) -> None:
        write_json(event)

    def name(self, stream_id: str) -> None:
        """Do nothing: the first event contains the id."""

    def end(self, *summary: str) -> None:
        for line in summary:
            say(line)


class PlainOutput:
    """The answer's text on stdout, unchanged; tool calls and the summary on stderr."""

    def __init__(self) -> None:
        self._in_line = False

    def show(self, event: TokenEvent) -> None:
        match event.WhichOneof("event"):
            case "text":
                _write(event.text.text)
                self._in_line = not event.text.text.endswith("\n")
            case "tool_call":
                say(_tool_call_text(event.tool_call.tool_call))

    def name(self, stream_id: str) -> None:
        if stream_id:
            say(stream_line(stream_id))

    def end(self, *summary: str) -> None:
        if self._in_line:
            _write("\n")
        for line in summary:
            say(line)


class TerminalOutput:
    """Text as it comes, reasoning dimmed, tool calls on lines of their own."""

    def __init__(self) -> None:
        from rich.console import Console

        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)
        self._block: tuple[str, int] | None = None
        self._in_line = False

    def show(self, event: TokenEvent) -> None:
        match event.WhichOneof("event"):
            case "text":
                self._show("text", event.text.index, event.text.text)
            case "reasoning":
                self._show("reasoning", event.reasoning.index, event.reasoning.text, "dim italic")
            case "tool_call":
                call = event.tool_call
                self._show("tool_call", call.index, _tool_call_text(call.tool_call), "cyan")

    def name(self, stream_id: str) -> None:
        if stream_id:
            self._say(stream_line(stream_id))

    def end(self, *summary: str) -> None:
        if self._in_line:
            _write("\n")
        for line in summary:
            with contextlib.suppress(OSError):  # the answer was written
                self._say(line)

    def _say(self, line: str) -> None:
        self._err.out(visible(line), style="dim", highlight=False)

    def _show(self, kind: str, index: int, text: str, style: str | None = None) -> None:
        text = visible(text)
        if not text:
            return
        if self._block is not None and self._block != (kind, index):
            both_text = kind == "text" and self._block[0] == "text"
            if not both_text:
                _write("\n\n" if self._in_line else "\n")
        self._block = (kind, index)
        if style is None:
            _write(text)  # rich would turn tabs into spaces
        else:
            self._out.out(text, end="", style=style, highlight=False)
        self._in_line = not text.endswith("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tool_call_text(call: ToolCall) -> str:
    return f"tool call: {call.name}({call.arguments_json})"
