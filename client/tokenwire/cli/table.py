"""Tables of plain text, for terminals and pipes. No cell is ever cut or wrapped."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .terminal import one_line

GAP = "  "

_DIM, _RESET = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. Widths are in terminal cells."""

    heading: str
    right: bool = False
    """Whether cells are aligned to the right."""
    min_width: int = 0


class Table:
    """A table that is written in parts. Later parts keep the column widths of earlier ones."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._widths = [
            max(cell_width(one_line(column.heading)), column.min_width) for column in columns
        ]
        self._is_begun = False

    @property
    def width(self) -> int:
        """Width of a whole line."""
        return sum(self._widths) + len(GAP) * (len(self._widths) - 1)

    def fit(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        """Widen the columns for these rows. Return the rows without control characters."""
        shown = [[one_line(cell) for cell in row] for row in rows]
        for row in shown:
            self._widths = list(map(max, self._widths, map(cell_width, row)))
        return shown

    def write(self, rows: Sequence[Sequence[str]]) -> None:
        """Write the next rows to stdout. The headings come before the first ones."""
        shown = self.fit(rows)
        if shown and not self._is_begun:
            self._is_begun = True
            write_lines([dim(self.heading())])
        write_lines([self.line(row) for row in shown])

    def heading(self) -> str:
        """Return the line with the headings."""
        return self.line([one_line(column.heading) for column in self._columns])

    def line(self, cells: Sequence[str]) -> str:
        """Return one row as a line. The row must have been returned by `fit`."""
        padded = []
        for column, cell, width in zip(self._columns, cells, self._widths, strict=True):
            space = " " * (width - cell_width(cell))
            padded.append(space + cell if column.right else cell + space)
        return GAP.join(padded).rstrip()


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a whole table, with its headings."""
    table = Table(columns)
    shown = table.fit(rows)
    return [dim(table.heading()), *map(table.line, shown)]


def write_lines(lines: Sequence[str]) -> None:
    """Write lines to stdout."""
    sys.stdout.writelines(line + "\n" for line in lines)


def dim(text: str) -> str:
    """Return text in the style of a heading, if stdout is a terminal that has styles."""
    return f"{_DIM}{text}{_RESET}" if has_styles() else text


def has_styles() -> bool:
    """Return whether stdout is a terminal that shows styles (https://no-color.org)."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return sys.stdout.isatty() and not dumb and not os.environ.get("NO_COLOR")


def cell_width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
