"""Local token counts of texts, requests and growing answers.

They are used before a provider reports its figures, and if it never does. Every step on the event loop is
bounded: about 1 ms for the slowest text.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

import msgspec

from ..request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    JsonSchemaFormat,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)

CHARS_PER_TOKEN = 4
"""Estimate without a tokenizer, for English text and common tokenizers."""
IMAGE_TOKENS = 1000
"""Estimate for an image of common size."""
PDF_PAGE_TOKENS = 2000
"""Estimate for a page of a PDF. 1,500 to 3,000 for Claude:
https://platform.claude.com/docs/en/build-with-claude/pdf-support#estimate-your-costs"""
PDF_PAGE_BYTES = 64 * 1024
"""Estimate for a page of a PDF, whose pages are not counted."""
LINKED_DOCUMENT_TOKENS = 10_000
"""Estimate for a document that the provider fetches, whose size is unknown."""
AUDIO_BYTES_PER_TOKEN = {"audio/wav": 3200, "audio/mpeg": 1600}
"""Estimate for sound of common quality (16 kHz mono, 128 kbit/s): OpenAI counts a token for 0.1 s.
https://platform.openai.com/docs/guides/realtime-costs"""
MESSAGE_TOKENS = 4
"""Tokens of a message in addition to its text: 3, and its role. The reply starts with 3. OpenAI's rule:
https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb"""
REPLY_TOKENS = 3

MAX_STEP_CHARS = 16 * 1024
"""Characters that are counted in one step. For a longer text `count` uses samples."""
MAX_STEP_PARTS = 1000
"""Parts of a request that are visited in the step that ends its count."""
MAX_COUNTED_CHARS = 2**20
"""Characters of one request that are counted exactly, in about 40 ms. Long texts beyond it are sampled."""
OVERHEAD_CHARS = 16
"""Cost of a call of the tokenizer, as the number of characters counted in that time."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_SAMPLES = 8
_SAMPLE_CHARS = 2048
_PENDING_CHARS = 2048
_CUT_WINDOW_CHARS = 256


class Encoding(Protocol):
    """A tokenizer. Raises UnicodeEncodeError for text that UTF-8 cannot encode."""

    def count(self, text: str) -> int: ...


class Characters:
    """An estimate without a tokenizer: CHARS_PER_TOKEN characters for each token."""

    def count(self, text: str) -> int:
        return math.ceil(len(text) / CHARS_PER_TOKEN)


class TokenCount(msgspec.Struct, frozen=True):
    """A count. It is `exact` if the model's own tokenizer and its provider's published rule were used."""

    tokens: int
    exact: bool


class TokenCounter:
    """Counts tokens for one model. Accepts any text, including lone surrogates."""

    __slots__ = ("_counts_requests", "_encoding", "_percent", "_tools_tokens", "exact")

    def __init__(
        self,
        encoding: Encoding,
        *,
        exact: bool = False,
        counts_requests: bool = False,
        percent: int = 100,
        tools_tokens: int = 0,
    ) -> None:
        """`percent` is the number of the model's tokens for 100 tokens of this encoding. `counts_requests`
        is whether the rule of MESSAGE_TOKENS is published for the model. `tools_tokens` is what tools add.
        """
        self._encoding = encoding
        self.exact = exact
        """Whether the encoding is the model's own."""
        self._counts_requests = counts_requests
        self._percent = percent
        self._tools_tokens = tools_tokens

    def count(self, text: str) -> int:
        """Count a text. A text longer than MAX_STEP_CHARS is estimated from samples."""
        return self.scaled(self.raw(text))

    async def count_long(self, text: str) -> int:
        """Count a text of any length in steps. Cancellation leaves nothing behind."""
        return self.scaled(await self._raw_of((text,)))

    async def count_request(self, request: ChatRequest) -> TokenCount:
        """Count the input tokens of a request in steps. Cancellation leaves nothing behind."""
        texts = list(_texts(request))
        raw = await self._raw_of(texts)
        if len(texts) > MAX_STEP_PARTS:
            await asyncio.sleep(0)  # what follows visits each part again
        tokens = self.scaled(raw) + MESSAGE_TOKENS * len(request.messages) + REPLY_TOKENS
        tokens += _media_tokens(request)
        if request.tools:
            tokens += self._tools_tokens
        exact = (
            self._counts_requests
            and not request.tools
            and not isinstance(request.response_format, JsonSchemaFormat)
            and not request.provider_options
            and all(len(m.parts) == 1 and type(m.parts[0]) is Text for m in request.messages)
            and sum(map(len, texts)) <= MAX_COUNTED_CHARS
        )
        return TokenCount(tokens, exact)

    def raw(self, text: str) -> int:
        """Return the tokens of this encoding, to be `scaled` to the model's. Counts of pieces can be
        added.
        """
        if len(text) <= MAX_STEP_CHARS:
            return self._count(text)
        stride = (len(text) - _SAMPLE_CHARS) // (_SAMPLES - 1)
        sampled = sum(
            self._count(text[start : start + _SAMPLE_CHARS])
            for start in range(0, stride * _SAMPLES, stride)
        )
        return round(sampled * len(text) / (_SAMPLES * _SAMPLE_CHARS))

    def scaled(self, raw: int) -> int:
        return -(-raw * self._percent // 100)

    def _count(self, text: str) -> int:
        try:
            return self._encoding.count(text)
        except UnicodeEncodeError:
            return self._encoding.count(_SURROGATE.sub("\ufffd", text))

    async def _raw_of(self, texts: Iterable[str]) -> int:
        raw = 0
        room = MAX_COUNTED_CHARS
        work = 0
        for text in texts:
            for piece in _pieces(text) if len(text) <= room else (text,):
                raw += self.raw(piece)
                work += min(len(piece), MAX_STEP_CHARS) + OVERHEAD_CHARS
                if work >= MAX_STEP_CHARS // 2:
                    work = 0
                    await asyncio.sleep(0)
            room -= len(text)
        return raw


class OutputCount:
    """Counts the tokens of an answer that arrives in pieces of any size.

    It keeps at most the last 2,048 characters. The count may differ from that of the whole text by much less
    than 2 %, where a word was cut apart or a long piece was sampled.
    """

    __slots__ = ("_chars", "_counter", "_pending", "_pending_raw", "_raw")

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._raw = 0
        self._pending: list[str] = []
        self._chars = 0  # in pending
        self._pending_raw: int | None = 0  # None: not counted yet

    def add(self, text: str) -> None:
        """Add a text. Some calls count the pending texts, which takes 0.1 ms."""
        if not text:
            return
        self._pending.append(text)
        self._pending_raw = None
        self._chars += len(text)
        if self._chars >= _PENDING_CHARS:
            pending = "".join(self._pending)
            self._settle(pending, _cut(pending, 0, len(pending)))

    @property
    def tokens(self) -> int:
        """The current count. Counts the texts that were added since the last access, and the last word
        again.
        """
        if self._pending_raw is None:
            text = "".join(self._pending)
            self._settle(text, _word_end(text, 1, len(text)))
            self._pending_raw = self._counter.raw("".join(self._pending))
        return self._counter.scaled(self._raw + self._pending_raw)

    def _settle(self, text: str, end: int) -> None:
        """Count the pending text up to `end` and drop it."""
        if end:
            self._raw += self._counter.raw(text[:end])
            self._pending = [text[end:]]
            self._chars = len(text) - end


def estimate_input_tokens(request: ChatRequest) -> int:
    """Estimate the input tokens from the length of a request's texts, and the size of its media."""
    chars = sum(map(len, _texts(request)))
    return math.ceil(chars / CHARS_PER_TOKEN) + _media_tokens(request)


def counting_work(request: ChatRequest) -> int:
    """Return an upper bound of the work of counting a request, in characters."""
    work = sum(len(text) + OVERHEAD_CHARS for text in _texts(request))
    return min(work, MAX_COUNTED_CHARS)


def all_parts(request: ChatRequest) -> Iterator[Part]:
    """All parts of a request, also those in the results of tools."""
    for message in request.messages:
        for part in message.parts:
            yield part
            if type(part) is ToolResult:
                yield from part.parts


def _texts(request: ChatRequest) -> Iterator[str]:
    """All that a provider puts before its model, except media and its own state."""
    for tool in request.tools:
        yield tool.name
        yield tool.description
        yield tool.parameters_json_schema
    if isinstance(request.response_format, JsonSchemaFormat):
        yield request.response_format.schema_json
    for part in all_parts(request):
        kind = type(part)  # isinstance with a union is slow, and a chat may have 10,000 parts
        if kind in _WITH_TEXT:
            yield cast("Text | Reasoning | ToolResult", part).text
        elif isinstance(part, ToolCall):
            yield part.name
            yield part.arguments_json


def _media_tokens(request: ChatRequest) -> int:
    """Estimate the tokens of images, documents and sound from their sizes. Decodes nothing."""
    # Of 10,000 texts, this takes a millisecond; matching each of them takes five.
    media = [part for part in all_parts(request) if type(part) in _MEDIA]
    return sum(map(_tokens_of_medium, cast("list[Image | Document | Audio]", media)))


_WITH_TEXT = frozenset({Text, Reasoning, ToolResult})
_MEDIA = frozenset({Image, Document, Audio})


def _tokens_of_medium(part: Image | Document | Audio) -> int:
    match part:
        case Image():
            return IMAGE_TOKENS
        case Document(uri=uri) if uri:
            return LINKED_DOCUMENT_TOKENS
        case Document(data=data, media_type="application/pdf"):
            return PDF_PAGE_TOKENS * math.ceil(len(data) / PDF_PAGE_BYTES)
        case Document(data=data):
            return math.ceil(len(data) / CHARS_PER_TOKEN)
        case Audio(data=data, media_type=media_type):
            return math.ceil(len(data) / AUDIO_BYTES_PER_TOKEN[media_type])
    return 0


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > MAX_STEP_CHARS:
        end = _cut(text, start, start + MAX_STEP_CHARS)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """Return where to end a piece of `text[start:end]`, near its end.

    Every tokenizer in use begins a new token at a space between a word and a letter, so that the counts of
    both sides can be added. In a text without such a place the piece ends after a multiple of 256: tokens
    of a repeated character have 2, 4, ... 128 characters.
    """
    lowest = max(start + 1, end - _CUT_WINDOW_CHARS)
    return _word_end(text, lowest, end) or end - (end - start) % _CUT_WINDOW_CHARS


def _word_end(text: str, lowest: int, end: int) -> int:
    """Return the last such place in `text[lowest:end]`, or 0."""
    at = text.rfind(" ", lowest, end)
    while at > 0:
        if text[at + 1 : at + 2].isalpha() and not text[at - 1].isspace():
            return at
        at = text.rfind(" ", lowest, at)
    return 0
