"""The parts of an OpenAI Responses answer: pieces of text with their citations and log probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from zlib import crc32

from ....errors import UpstreamBroken
from ....events import (
    Citation,
    CitationKind,
    Delta,
    Logprobs,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
)
from . import wire

MAX_PARTS = 4096
"""Maximum number of items in one answer, of parts, and of items in its final response. An answer with more is
broken."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of the ids, names and arguments that are kept until their calls or the answer end. An answer
with more is broken."""

MAX_EXPLANATION_CHARS = 1024
"""Maximum length of the explanation of a refusal. The text of the answer has all of it."""

OF_MESSAGES = frozenset({"output_text", "refusal"})
OF_REASONING = frozenset({"summary_text", "reasoning_text"})

LOOKAHEAD = 4
"""Number of candidates that are compared with a complete item or part."""
_MAX_UNCOUNTED_CHARS = 64
_Whole = TypeVar("_Whole")
_Known = TypeVar("_Known")


class Blocks:
    """Numbers the blocks of one answer, and bounds what is kept of them. Methods raise UpstreamBroken."""

    __slots__ = (
        "_blocks_count",
        "_buffered_chars",
        "_citations_count",
        "_items_count",
        "_parts_count",
        "provider",
    )

    def __init__(self, provider: str) -> None:
        self.provider = provider
        """Name of the provider, for `state.tag`."""
        self._blocks_count = 0
        self._items_count = 0
        self._parts_count = 0
        self._citations_count = 0
        self._buffered_chars = 0

    def next_index(self) -> int:
        self._blocks_count += 1
        return self._blocks_count - 1

    def count_item(self) -> None:
        self._items_count += 1
        if self._items_count > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many items")

    def count_part(self) -> None:
        self._parts_count += 1
        if self._parts_count > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many parts")

    def count_citation(self) -> bool:
        """Count a citation. Return whether it is one of the first MAX_PARTS, which are emitted."""
        self._citations_count += 1
        return self._citations_count <= MAX_PARTS

    def count_chars(self, count: int) -> None:
        """Count characters that are kept, or with a negative number, characters that are not kept anymore."""
        self._buffered_chars += count
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            raise UpstreamBroken("the function calls of the provider's answer are too long")


class Part:
    """A part whose text is emitted. Of the text, only its size and checksum are kept, and a short piece that
    is not counted in them yet, because many tokens at once are counted faster.

    The text counts as UTF-16, so that the halves of a surrogate pair may arrive together or separately.
    """

    __slots__ = (
        "_crc",
        "_delta",
        "_size",
        "_uncounted",
        "cited",
        "has_info",
        "index",
        "is_whole",
        "logprobs_count",
        "place",
        "type",
    )

    def __init__(self, part_type: str, place: int | None, index: int) -> None:
        self.type = part_type
        self.place = place
        """The provider's index of the part in its item."""
        self.index = index
        self.is_whole = False
        """Whether an event had its whole text."""
        self.has_info = False
        """Whether the TextInfo of its block was emitted."""
        self.logprobs_count = 0
        """Number of tokens whose log probabilities were emitted."""
        self.cited: set[int] = set()
        """The provider's indexes of the citations that were emitted."""
        self._size = 0
        self._crc = 0
        self._uncounted = ""
        self._delta = TextDelta if part_type in OF_MESSAGES else ReasoningDelta

    @property
    def size(self) -> int:
        """Size of the emitted text, in bytes of UTF-16."""
        self._count()
        return self._size

    def append(self, piece: str, deltas: list[Delta]) -> None:
        """Emit the next piece of the text."""
        self._uncounted += piece
        if len(self._uncounted) > _MAX_UNCOUNTED_CHARS:
            self._count()
        deltas.append(self._delta(piece, self.index))

    def _count(self) -> None:
        units = self._uncounted.encode("utf-16-le", "surrogatepass")
        self._uncounted = ""
        self._size += len(units)
        self._crc = crc32(units, self._crc)

    def add_logprobs(self, logprobs: Sequence[wire.Logprob], deltas: list[Delta]) -> None:
        """Emit the log probabilities of the next tokens."""
        self.logprobs_count += len(logprobs)
        tokens = tuple(filter(None, map(_token_logprob, logprobs)))
        if tokens:
            deltas.append(Logprobs(self.index, tokens))

    def rest(self, whole: str) -> str | None:
        """Return the part of `whole` after the emitted text, or None if `whole` does not begin with it."""
        units = whole.encode("utf-16-le", "surrogatepass")
        size = self.size
        if len(units) < size or crc32(units[:size]) != self._crc:
            return None
        return units[size:].decode("utf-16-le", "surrogatepass")


class Refusal(Part):
    """A part in which the model explains why it refuses. The beginning of the explanation is kept."""

    __slots__ = ("explanation",)

    def __init__(self, part_type: str, place: int | None, index: int) -> None:
        super().__init__(part_type, place, index)
        self.explanation = ""

    def append(self, piece: str, deltas: list[Delta]) -> None:
        super().append(piece, deltas)
        self.explanation += piece[: MAX_EXPLANATION_CHARS - len(self.explanation)]


def match(
    wholes: Sequence[_Whole],
    known: Sequence[_Known],
    *tests: Callable[[_Whole, _Known], bool],
    agree: Callable[[_Whole, _Known], bool],
) -> dict[int, _Known]:
    """Match complete items or parts with those that are already known. Return the known ones by `id(whole)`.

    Servers may use different ids and indexes in different events. So the tests are applied one after another,
    then `agree`, which compares the content. What remains is matched in order, even if its content differs:
    text that was emitted cannot be taken back, and emitting the other text as well would double it.
    """
    matches: dict[int, _Known] = {}
    open_wholes, open_known = list(wholes), list(known)
    for test in (*tests, agree, _in_order):
        if test is agree and len(open_wholes) == len(open_known):
            continue
        unmatched = []
        for whole in open_wholes:
            nearest = enumerate(open_known[:LOOKAHEAD])
            at = next((i for i, candidate in nearest if test(whole, candidate)), None)
            if at is None:
                unmatched.append(whole)
            else:
                matches[id(whole)] = open_known.pop(at)
        open_wholes = unmatched
    return matches


def _in_order(_: object, __: object) -> bool:
    return True


def text_of(part: wire.Part) -> str:
    return (part.refusal if part.type == "refusal" else part.text) or ""


def _token_logprob(written: wire.TopLogprob) -> TokenLogprob | None:
    """Return a token's log probability, or None if it is missing."""
    if written.logprob is None:
        return None
    top = (written.top_logprobs if isinstance(written, wire.Logprob) else None) or ()
    return TokenLogprob(
        written.token,
        written.logprob,
        bytes(written.bytes or ()),
        tuple(filter(None, map(_token_logprob, top))),
    )


def citation_of(annotation: wire.Annotation, index: int) -> Citation | None:
    """Return a citation, or None for an annotation of an unknown type.

    The API counts characters from the start of the part, and the end is exclusive, as in Python. A file at
    one position cites nothing in particular; a path has no position.
    """
    start, end = annotation.start_index, annotation.end_index
    title = annotation.title or annotation.filename or annotation.file_id or ""
    match annotation.type:
        case "url_citation":
            kind = CitationKind.URL
        case "container_file_citation" | "file_path":
            kind = CitationKind.DOCUMENT
        case "file_citation":
            kind = CitationKind.DOCUMENT
            start = end = annotation.index
        case _:
            return None
    return Citation(index, kind, start, end, url=annotation.url or "", title=title)
