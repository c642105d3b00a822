"""Citations and log probabilities of Chat Completions."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ....events import Citation, CitationKind, Logprobs
from ....events import TokenLogprob as Token


class UrlCitation(msgspec.Struct, gc=False):
    url: str | None = None
    title: str | None = None
    content: str | None = None
    """OpenRouter: the text of the source."""
    start_index: int | None = None
    end_index: int | None = None


class Annotation(UrlCitation, gc=False):
    """An annotation of a text. Some servers leave out the inner object."""

    type: str = ""
    url_citation: UrlCitation | None = None


class TokenLogprob(msgspec.Struct, gc=False):
    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] | None = None


class ChoiceLogprobs(msgspec.Struct, gc=False):
    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


def citations(annotations: list[Annotation]) -> Iterator[Citation]:
    """Yield the citations, with index 0. OpenRouter sends positions of 0 for no position."""
    for annotation in annotations:
        source = annotation.url_citation or annotation
        if annotation.type != "url_citation" or not source.url:
            continue
        start, end = source.start_index, source.end_index
        has_position = start is not None and end is not None and 0 <= start < end < 2**31
        yield Citation(
            index=0,
            kind=CitationKind.URL,
            start=start if has_position else None,
            end=end if has_position else None,
            cited_text=source.content or "",
            url=source.url,
            title=source.title or "",
        )


def references(ids: list[int | str]) -> Iterator[Citation]:
    """Yield citations for Mistral's references: ids that a tool gave to its results."""
    for id_ in ids:
        yield Citation(index=0, kind=CitationKind.SEARCH_RESULT, title=str(id_))


def logprobs(reported: ChoiceLogprobs) -> Logprobs | None:
    """Return the log probabilities, with index 0, or None if there are none."""
    tokens = tuple(_tokens([*(reported.content or ()), *(reported.refusal or ())]))
    return Logprobs(0, tokens) if tokens else None


def _tokens(reported: list[TokenLogprob]) -> Iterator[Token]:
    for token in reported:
        if token.logprob is not None:
            top = tuple(_tokens([*(token.top_logprobs or ())]))
            yield Token(token.token, token.logprob, _bytes(token.bytes), top)


def _bytes(values: list[int] | None) -> bytes:
    try:
        return bytes(values or ())
    except ValueError:
        return b""
