"""Shows the events of a stream as they arrive: on a terminal, on a pipe, or as lines of JSON."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Protocol

from tokenwire.v1.event_pb2 import (
    Citation,
    InvalidToolCall,
    JsonValue,
    Notice,
    TokenEvent,
    ToolCall,
)

from ..enums import NoticeKind
from .proto_json import write_json
from .table import has_styles
from .terminal import discard, one_line, say, visible, write_stdout
from .wrapping import WordWrapper

if TYPE_CHECKING:
    from .markdown import LiveMarkdown


def stream_line(stream_id: str) -> str:
    """Return the line that shows a stream's id."""
    return f"stream {stream_id}"


class Output(Protocol):
    """Shows the events of one stream."""

    def show(self, event: TokenEvent) -> None:
        """Show one event, and return when it has been written."""

    def name(self, stream_id: str) -> None:
        """Show the stream's id on stderr, before the first event or after the end."""

    def note(self, line: str) -> None:
        """Show a line about the stream on stderr, between two events."""

    def end(self, *summary: str, interrupted: bool = False) -> None:
        """Finish the output, and print the summary's lines on stderr. Call it once for each stream.

        Raises:
            OSError: stdout cannot be written. The summary was printed anyway. If the command was
                `interrupted`, it is not raised: Ctrl-C also ends the reader of a pipe.
        """


def output(*, as_json: bool, plain: bool = False, shows_values: bool = False) -> Output:
    """Return the output that suits stdout.

    A terminal shows Markdown, or with `plain` the text as it is. With `shows_values` it shows the values of
    a JSON answer in place of its text.
    """
    if as_json:
        return JsonOutput()
    if not sys.stdout.isatty():
        return PlainOutput()
    if shows_values:
        return ValuesOutput()
    return MarkdownOutput() if has_styles() and not plain else TerminalOutput()


class JsonOutput:
    """Every event as a line of proto JSON, including events of unknown types."""

    def show(self, event: TokenEvent) -> None:
        write_json(event)

    def name(self, stream_id: str) -> None:
        if stream_id:
            say(stream_line(stream_id))

    def note(self, line: str) -> None:
        say(line)

    def end(self, *summary: str, interrupted: bool = False) -> None:  # noqa: ARG002  # writes no text
        for line in summary:
            say(line)


class PlainOutput:
    """The answer's text on stdout, unchanged; tool calls, sources and the summary on stderr."""

    def __init__(self) -> None:
        self._in_line = False
        self._is_shared = os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
        """Whether stderr is the same pipe or file: a report could then continue a line of the answer."""
        self._sources = _Sources()

    def show(self, event: TokenEvent) -> None:
        match event.WhichOneof("event"):
            case "text" if event.text.text:
                write_stdout(event.text.text)
                self._in_line = not event.text.text.endswith("\n")
            case "tool_call":
                self.note(_tool_call_text(event.tool_call.tool_call))
            case "invalid_tool_call":
                self.note(_invalid_call_text(event.invalid_tool_call))
            case "citation":
                self._sources.add(event.citation)
            case "notice" if line := _notice_text(event.notice):
                self.note(line)

    def name(self, stream_id: str) -> None:
        if stream_id:
            say(stream_line(stream_id))

    def note(self, line: str) -> None:
        if self._in_line and self._is_shared:
            write_stdout("\n")
            self._in_line = False
        say(line)

    def end(self, *summary: str, interrupted: bool = False) -> None:
        try:
            if self._in_line:
                write_stdout("\n")
        except OSError:
            if not interrupted:
                raise
            discard(sys.stdout)
            if sys.stderr.isatty():  # where the reader of the pipe has written the line
                say("")
        finally:
            for line in (*self._sources.lines(), *summary):
                say(line)


class TerminalOutput:
    """Text as it arrives, reasoning dimmed, tool calls on lines of their own, and sources after the text."""

    def __init__(self) -> None:
        from rich.console import Console

        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)
        self._block: tuple[str, int] | None = None
        self._in_line = False
        self._sources = _Sources()

    def show(self, event: TokenEvent) -> None:
        match event.WhichOneof("event"):
            case "text":
                self._show("text", event.text.index, event.text.text)
            case "reasoning":
                self._show("reasoning", event.reasoning.index, event.reasoning.text, "dim italic")
            case "tool_call":
                call = event.tool_call
                self._show("tool_call", call.index, _tool_call_text(call.tool_call), "cyan")
            case "invalid_tool_call":
                invalid = event.invalid_tool_call
                self._show("tool_call", invalid.index, _invalid_call_text(invalid), "red")
            case "citation":
                self._sources.add(event.citation)
            case "notice" if line := _notice_text(event.notice):
                self._end_line()
                self._say(line)

    def name(self, stream_id: str) -> None:
        if stream_id:
            self._say(stream_line(stream_id))

    def note(self, line: str) -> None:
        self._end_line()
        self._say(line)

    def end(self, *summary: str, interrupted: bool = False) -> None:  # noqa: ARG002  # a terminal stays
        if self._in_line:
            write_stdout("\n")
        for source in self._sources.lines():
            self._out.out(visible(source), style="dim", highlight=False)
        for line in summary:
            with contextlib.suppress(OSError):  # the answer was written
                self._say(line)

    def _end_line(self) -> None:
        if self._in_line:
            write_stdout("\n")
            self._in_line = False

    def _say(self, line: str) -> None:
        self._err.out(visible(line), style="dim", highlight=False)

    def _show(self, kind: str, index: int, text: str, style: str | None = None) -> None:
        text = visible(text)
        if not text:
            return
        self._begin(kind, index)
        if style is None:
            write_stdout(text)  # rich would turn tabs into spaces
        else:
            self._out.out(text, end="", style=style, highlight=False)
        self._in_line = not text.endswith("\n")

    def _begin(self, kind: str, index: int) -> None:
        """Separate a block of the answer from the one before it."""
        if self._block is not None and self._block != (kind, index):
            both_text = kind == "text" and self._block[0] == "text"
            if not both_text:
                write_stdout("\n\n" if self._in_line else "\n")
        self._block = (kind, index)


class MarkdownOutput(TerminalOutput):
    """The text of the answer as Markdown, and reasoning that is wrapped between words.

    Complete blocks of Markdown are written once, and the last one grows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._markdown: LiveMarkdown | None = None
        self._wrapper: WordWrapper | None = None
        self._wrapped: tuple[int, str | None] = (0, None)
        """Index and style of the reasoning in the wrapper."""

    def note(self, line: str) -> None:
        if self._markdown is None:
            super().note(line)
        else:  # the block may continue after it
            self._markdown.make_room()
            self._say(line)

    def end(self, *summary: str, interrupted: bool = False) -> None:
        self._end_line()
        super().end(*summary, interrupted=interrupted)

    def _end_line(self) -> None:
        self._flush_words()
        if self._markdown is not None:
            self._markdown.finish()
            self._markdown = None
            self._in_line = False
        super()._end_line()

    def _show(self, kind: str, index: int, text: str, style: str | None = None) -> None:
        if not text:
            return
        if kind == "reasoning":
            self._show_wrapped(index, text, style)
            return
        self._flush_words()
        if kind != "text":
            if self._markdown is not None:
                self._end_line()
            super()._show(kind, index, text, style)
            return
        self._begin(kind, index)
        if self._markdown is None:
            from .markdown import LiveMarkdown

            self._markdown = LiveMarkdown(self._out)
        self._markdown.add(visible(text))

    def _show_wrapped(self, index: int, text: str, style: str | None) -> None:
        """Show reasoning with its lines broken between words."""
        if self._markdown is not None:
            self._end_line()
        if self._wrapper is None or self._wrapped[0] != index:
            self._flush_words()
            self._wrapper, self._wrapped = WordWrapper(self._out.width), (index, style)
        super()._show("reasoning", index, self._wrapper.feed(visible(text)), style)

    def _flush_words(self) -> None:
        if self._wrapper is not None:
            (index, style), wrapper = self._wrapped, self._wrapper
            self._wrapper = None
            super()._show("reasoning", index, wrapper.flush(), style)


class ValuesOutput(TerminalOutput):
    """The values of a JSON answer, each on a line as soon as it is complete, in place of its text.

    An answer without such values, for example a refusal, is shown as text when it ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_values = False
        self._text: list[TokenEvent] = []
        """The text of the answer, until a value is shown."""

    def show(self, event: TokenEvent) -> None:
        match event.WhichOneof("event"):
            case "text":
                if not self._has_values:
                    self._text.append(event)
            case "json_value":
                if _is_leaf(event.json_value):
                    self._has_values = True
                    self._text.clear()
                    self._end_line()
                    value = event.json_value
                    write_stdout(
                        visible(one_line(f"{value.pointer or 'answer'}  {value.value_json}")) + "\n"
                    )
            case _:
                super().show(event)

    def end(self, *summary: str, interrupted: bool = False) -> None:
        self._show_text()
        super().end(*summary, interrupted=interrupted)

    def _show_text(self) -> None:
        for event in self._text:
            super().show(event)
        self._text.clear()


def _is_leaf(value: JsonValue) -> bool:
    """Return whether a value has no members, which were shown before it."""
    text = value.value_json
    return not value.is_omitted and (text[:1] not in "[{" or not text[1:-1].strip())


def _tool_call_text(call: ToolCall) -> str:
    return f"tool call: {call.name}({call.arguments_json})"


def _invalid_call_text(call: InvalidToolCall) -> str:
    return f"invalid tool call: {call.name}({call.arguments_text}): {call.problem}"


def _notice_text(notice: Notice) -> str | None:
    """Return a notice for people, or None if this version does not recognize it."""
    if notice.kind == NoticeKind.MODEL_CHANGED:
        return f"the answer continues with the model {one_line(notice.model)}"
    if notice.kind == NoticeKind.RETRYING:
        delay_s = notice.delay.ToTimedelta().total_seconds()
        when = f"in {delay_s:.1f} s" if delay_s else "at once"
        return f"the provider failed; attempt {notice.attempt} follows {when}"
    if notice.kind == NoticeKind.FALLBACK:
        model = one_line(f"{notice.provider}/{notice.model}")
        return f"the provider failed; attempt {notice.attempt} follows with {model}"
    if notice.kind == NoticeKind.DRAINING:
        left_s = notice.delay.ToTimedelta().total_seconds()
        return f"the server is about to stop: the stream may continue for {left_s:.1f} s"
    return None


class _Sources:
    """The sources that an answer cites, each once, numbered from 1."""

    def __init__(self) -> None:
        self._sources: dict[str, None] = {}

    def add(self, citation: Citation) -> None:
        where = citation.url
        if not where and citation.HasField("document_index"):
            where = f"document {citation.document_index + 1}"
        text = " ".join(one_line(part) for part in (citation.title, where) if part)
        self._sources.setdefault(text or one_line(citation.cited_text) or "unknown source")

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for number, text in enumerate(self._sources, 1)]
