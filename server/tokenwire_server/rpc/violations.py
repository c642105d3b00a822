"""Collecting what is wrong with a request, with a bound on the work and the memory that this takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..errors import MAX_VIOLATIONS, InvalidRequest
from ..request import Violation

MAX_OF_ONE_LIST = 10
"""Violations found in the entries of one list, such as `messages`, so that other fields are listed too."""
MAX_CHARS = 256
"""Of a field's path and of a description."""

T = TypeVar("T")


class Violations(list[Violation]):
    """The violations of one request.

    Checking stops where MAX_VIOLATIONS are exceeded, and in each list after MAX_OF_ONE_LIST.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all_found = True
        """False: checking stopped early, and there may be more."""

    def add(self, field: str, description: str) -> None:
        """Add one. Raises InvalidRequest with all of them when there are too many."""
        if len(self) == MAX_VIOLATIONS:
            self.all_found = False
            raise self.error()
        self.append(Violation(_bounded(field), _bounded(description)))

    def checking(self, entries: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Enumerate the entries of a list, and stop where too many violations were added meanwhile."""
        most = len(self) + MAX_OF_ONE_LIST
        for position, entry in enumerate(entries):
            if len(self) >= most:
                self.all_found = False
                return
            yield position, entry

    def error(self) -> InvalidRequest:
        """Return the error that lists them."""
        return InvalidRequest(self, all_found=self.all_found)


def quoted(text: str) -> str:
    """A caller's text for use in a description."""
    return repr(text if len(text) <= MAX_CHARS // 4 else text[: MAX_CHARS // 4] + "...")


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 3] + "..."
