"""Citations of an answer's text, in the providers' formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from .answer import Answer


class Citation(msgspec.Struct, frozen=True):
    """A citation of the characters `start` to `end` of the text."""

    ordinal: int
    start: int
    end: int
    quote: str

    @property
    def title(self) -> str:
        return f"Source {self.ordinal}"

    @property
    def url(self) -> str:
        return f"https://example.com/{self.ordinal}"


def chat_annotations(answer: Answer) -> list[dict[str, Any]]:
    """Return the annotations of a message of Chat Completions."""
    if answer.scenario.citation == "reference":
        return []
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": citation.start,
                "end_index": citation.end,
                "title": citation.title,
                "url": citation.url,
            },
        }
        for citation in _citations(answer)
    ]


def chat_references(answer: Answer) -> list[dict[str, Any]]:
    """Return the references in the content of a message.

    https://docs.mistral.ai/capabilities/citations
    """
    if answer.scenario.citation != "reference":
        return []
    return [
        {"type": "reference", "reference_ids": [citation.ordinal]}
        for citation in _citations(answer)
    ]


def responses_annotations(answer: Answer) -> list[dict[str, Any]]:
    """Return the annotations of a text of Responses."""
    if answer.scenario.citation == "document":
        return [
            {
                "type": "file_citation",
                "file_id": f"file-{citation.ordinal}",
                "filename": citation.title,
                "index": citation.end,
            }
            for citation in _citations(answer)
        ]
    return [
        {
            "type": "url_citation",
            "start_index": citation.start,
            "end_index": citation.end,
            "title": citation.title,
            "url": citation.url,
        }
        for citation in _citations(answer)
    ]


def messages_citations(answer: Answer) -> list[dict[str, Any]]:
    """Return the citations of a text block of Messages."""
    return [_messages_citation(answer, citation) for citation in _citations(answer)]


def _messages_citation(answer: Answer, citation: Citation) -> dict[str, Any]:
    match answer.scenario.citation:
        case "document":
            return {
                "type": "char_location",
                "cited_text": citation.quote,
                "document_index": citation.ordinal,
                "document_title": citation.title,
                "file_id": None,
                "start_char_index": 0,
                "end_char_index": len(citation.quote),
            }
        case "search_result":
            return {
                "type": "search_result_location",
                "cited_text": citation.quote,
                "search_result_index": citation.ordinal,
                "source": citation.url,
                "title": citation.title,
                "start_block_index": 0,
                "end_block_index": 1,
            }
        case _:
            return {
                "type": "web_search_result_location",
                "cited_text": citation.quote,
                "encrypted_index": f"index-{citation.ordinal}",
                "title": citation.title,
                "url": citation.url,
            }


def _citations(answer: Answer) -> Iterator[Citation]:
    """Yield the citations: the one with the ordinal i cites token i of the text."""
    end = 0
    for ordinal, token in zip(range(answer.scenario.citations), answer.text, strict=False):
        start, end = end, end + len(token)
        yield Citation(ordinal, start, end, token)
