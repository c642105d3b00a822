"""CSV (RFC 4180) that spreadsheets can open safely, for both usage commands."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ..terminal import json_text, visible

# What spreadsheets take for the beginning of a formula, or skip before one (OWASP, "CSV Injection"), and
# the mark itself, so that a reader can remove it again.
_STARTS_FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20", "'")

CellValue = (
    str
    | int
    | float
    | bool
    | Mapping[str, str]
    | Mapping[str, int]
    | list[dict[str, object]]
    | None
)


class TextOutput(Protocol):
    """What a CsvWriter writes to."""

    def write(self, text: str, /) -> object: ...


class CsvWriter:
    """Writes the headings, then one line per row."""

    def __init__(self, out: TextOutput, headings: Sequence[str]) -> None:
        self._headings = tuple(headings)
        self._rows = csv.writer(out, lineterminator="\r\n")
        self._is_begun = False

    def write(self, rows: Iterable[Iterable[CellValue]]) -> None:
        """Write the next rows. The headings come first, even if there are no rows."""
        if not self._is_begun:
            self._is_begun = True
            self._rows.writerow(map(csv_cell, self._headings))
        self._rows.writerows(map(csv_cell, row) for row in rows)


def csv_cell(value: CellValue) -> str:
    """Return the text of one cell. None becomes an empty cell, a mapping or a list becomes JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, Mapping):
        return json_text(dict(sorted(value.items())))
    if isinstance(value, list):
        return json_text(value)
    return str(value)


def safe_text(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: with ' in front if it begins like one."""
    return f"'{text}" if text.startswith(_STARTS_FORMULA) else text


def csv_on_stdout(headings: Sequence[str]) -> CsvWriter:
    """Return a writer to stdout, in UTF-8 whatever the locale, without control characters on a terminal."""
    # RFC 4180 has its own line ends, and readers of a file do not know our locale.
    sys.stdout.reconfigure(encoding="utf-8", errors="replace", newline="")  # type: ignore[union-attr]
    return CsvWriter(_VisibleStdout() if sys.stdout.isatty() else sys.stdout, headings)


class _VisibleStdout:
    """A terminal, which the texts of others must not control."""

    def write(self, text: str, /) -> None:
        sys.stdout.write(visible(text))
