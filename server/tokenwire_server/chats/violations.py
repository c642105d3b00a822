"""The violations of a request, with bounds on the work and the memory of collecting them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..errors import MAX_VIOLATIONS, InvalidRequest
from ..request import Violation

MAX_OF_ONE_LIST = 10
"""Maximum number of violations in the entries of one list, such as `messages`."""
MAX_CHARS = 256
"""Longest path of a field, and longest description."""

T = TypeVar("T")


class Violations(list[Violation]):
    """The violations of one request.

    Checking stops at the first violation past MAX_VIOLATIONS, and in each list after MAX_OF_ONE_LIST.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all_found = True
        """False: checking stopped early, and there may be more."""

    def add(self, field: str, description: str) -> None:
        """Add a violation. Raises InvalidRequest with all of them if there are too many."""
        if len(self) == MAX_VIOLATIONS:
            self.all_found = False
            raise self.error()
        self.append(Violation(_bounded(field), _bounded(description)))

    def checking(self, entries: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Enumerate the entries of a list. Stop once the caller has added too many violations for them."""
        max_count = len(self) + MAX_OF_ONE_LIST
        for position, entry in enumerate(entries):
            if len(self) >= max_count:
                self.all_found = False
                return
            yield position, entry

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with all violations, if there are any."""
        if self:
            raise self.error()

    def error(self) -> InvalidRequest:
        """Return the error that lists them."""
        return InvalidRequest(self, all_found=self.all_found)


def quoted(text: str) -> str:
    """Return a caller's text, quoted and shortened for a description."""
    return repr(text if len(text) <= MAX_CHARS // 4 else text[: MAX_CHARS // 4] + "...")


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 3] + "..."
