"""Markdown on a terminal, shown while it arrives.

Complete blocks are written once and stay. Only the last block is drawn again as it grows. It may be longer
than the screen: then its end is shown until it is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import ControlType, Segment, Segments
from rich.theme import Theme

REFRESH_S = 0.06
"""Minimum time, in seconds, between two drawings of the last block."""

_MARGIN_LINES = 2
"""Lines of the screen that the last block leaves free, so that it can be erased."""

_THEME = Theme({"markdown.code": "cyan", "markdown.code_block": "cyan"})
"""Without the background of rich's own theme."""

_HEADING_STYLES = {"h1": "bold underline", "h2": "bold"}


class _LeftHeading(Heading):
    """A heading at the left margin. Those of rich are centered, and the first level is in a box."""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:  # of rich
        text = self.text.copy()
        text.justify = "left"
        text.stylize(_HEADING_STYLES.get(self.tag, "bold dim"))
        yield text


class _AnswerMarkdown(Markdown):
    """Markdown that shows everything in a model's answer.

    HTML, which rich omits, is shown as text. A line feed in a paragraph is kept. Links show their address.
    """

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = _parse(text)


class LiveMarkdown:
    """Shows Markdown that arrives in pieces. Use it inside a running event loop, and call `finish`.

    All methods raise OSError if the terminal cannot be written.
    """

    def __init__(self, console: Console) -> None:
        console.push_theme(_THEME)
        self._console = console
        self._tail = ""
        """The text that has not been written permanently."""
        self._drawn: list[list[Segment]] = []
        """The lines of the last block on the screen. The cursor is at the end of the last one."""
        self._has_written = False
        self._timer: asyncio.TimerHandle | None = None
        self._error: OSError | None = None

    def add(self, text: str) -> None:
        """Add a piece. It is shown within REFRESH_S."""
        if self._error is not None:
            raise self._error
        self._tail += text
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REFRESH_S, self._refresh)

    def finish(self) -> None:
        """Write the rest of the text. The cursor is then at the beginning of a line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        complete, self._tail = self._tail, ""
        self._draw(complete, "")

    def make_room(self) -> None:
        """Erase the last block, which leaves the cursor on an empty line. Draw it again after REFRESH_S."""
        if self._timer is not None:
            self._timer.cancel()
        complete, self._tail = split_last_block(self._tail)
        self._draw(complete, "")
        self._timer = asyncio.get_running_loop().call_later(REFRESH_S, self._refresh)

    def _refresh(self) -> None:
        self._timer = None
        complete, self._tail = split_last_block(self._tail)
        try:
            self._draw(complete, self._tail)
        except OSError as error:  # of a callback, which nobody awaits
            self._error = error

    def _draw(self, complete: str, tail: str) -> None:
        """Replace the last block on the screen by the complete blocks and the new last block."""
        lines = self._separated(self._lines(complete))
        self._has_written |= bool(lines)
        room = max(1, self._console.height - _MARGIN_LINES)
        last = self._separated(self._lines(tail))[-room:]
        shown = [*lines, *last]
        # Lines that stay the same are not drawn again, except for the one with the cursor.
        most = max(0, min(len(self._drawn), len(shown)) - 1)
        same = next((n for n in range(most) if self._drawn[n] != shown[n]), most)
        segments = [_erasing(len(self._drawn) - same)]
        for number, line in enumerate(shown[same:]):
            segments += [Segment.line(), *line] if number else line
        if shown and not last:
            segments.append(Segment.line())
        self._drawn = last
        self._console.print(Segments(segments), end="")

    def _separated(self, lines: list[list[Segment]]) -> list[list[Segment]]:
        """Return lines with an empty one before them, if others have been written."""
        return [[], *lines] if lines and self._has_written else lines

    def _lines(self, text: str) -> list[list[Segment]]:
        """Return the lines on the screen, with one empty line between blocks."""
        lines: list[list[Segment]] = []
        for block in _blocks(text):
            shown = self._block_lines(block)
            lines += [[], *shown] if lines and shown else shown
        return lines

    def _block_lines(self, block: str) -> list[list[Segment]]:
        """Return the lines of a block, without the spaces and empty lines that rich adds around it."""
        rendered = self._console.render_lines(_AnswerMarkdown(block), pad=False)
        lines = [list(_without_end_spaces(line)) for line in rendered]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            lines.pop(0)
        return lines


def split_last_block(text: str) -> tuple[str, str]:
    """Return the blocks that are complete, and the last one, which may continue."""
    *complete, last = _blocks(text)
    return "".join(complete), last


def _blocks(text: str) -> list[str]:
    """Return the blocks of Markdown: paragraphs, lists, tables, code and so on."""
    starts = [
        token.map[0]
        for token in _parse(text)
        if token.level == 0 and token.nesting >= 0 and token.map
    ]
    if len(starts) < 2:
        return [text]
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    starts[0] = 0
    ends = [*starts[1:], len(lines)]
    return ["".join(lines[start:end]) for start, end in zip(starts, ends, strict=True)]


def _parse(text: str) -> list[Token]:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _without_end_spaces(line: list[Segment]) -> Iterator[Segment]:
    end = len(line)
    while end and not line[end - 1].text.strip():
        end -= 1
    yield from line[: end - 1] if end else ()
    if end:
        last = line[end - 1]
        yield Segment(last.text.rstrip(), last.style, last.control)


def _erasing(count: int) -> Segment:
    """Return the control codes that erase the last lines and leave the cursor at the first of them."""
    erase = (ControlType.ERASE_IN_LINE, 2)
    up = (ControlType.CURSOR_UP, 1)
    if not count:
        return Control().segment
    return Control(ControlType.CARRIAGE_RETURN, erase, *[up, erase] * (count - 1)).segment
