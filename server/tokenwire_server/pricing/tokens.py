"""How many tokens a text, a request or a growing answer has, counted here.

What a provider reports is the truth; these counts are for before it is asked, while it writes, and
for when it never says. Every step on the event loop is bounded: about 1 ms for the worst text.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from ..request import (
    ChatRequest,
    Image,
    JsonSchemaFormat,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)

CHARS_PER_TOKEN = 4
"""Rule of thumb without a vocabulary; English text, common tokenizers."""
IMAGE_TOKENS = 1000
"""Rule of thumb for an image of ordinary size."""
MESSAGE_TOKENS = 4
"""Of a message beside its text: 3, and its role. The reply's beginning takes 3. OpenAI's rule:
https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb"""
REPLY_TOKENS = 3

MAX_STEP_CHARS = 16 * 1024
"""Counted at once. Of a longer text `count` takes samples."""
MAX_COUNTED_CHARS = 2**20
"""Of one request, counted to the last: about 40 ms of work in all. Of long texts past it, samples."""
OVERHEAD_CHARS = 16
"""What a call of the tokenizer costs, in characters counted meanwhile."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_SAMPLES = 8
_SAMPLE_CHARS = 2048
_PENDING_CHARS = 2048
_CUT_WINDOW_CHARS = 256


class Encoding(Protocol):
    """A vocabulary. Raises UnicodeEncodeError for text that UTF-8 cannot hold."""

    def count(self, text: str) -> int: ...


class Characters:
    """For when there is no vocabulary: so many characters to a token."""

    def count(self, text: str) -> int:
        return math.ceil(len(text) / CHARS_PER_TOKEN)


class TokenCount(msgspec.Struct, frozen=True):
    """`exact`: by the model's own vocabulary and its provider's published rule, nothing estimated."""

    tokens: int
    exact: bool


class TokenCounter:
    """Counts for one model. Any text may come, half of a surrogate pair too."""

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
        """`percent`: what the model makes of 100 tokens of this vocabulary. `counts_requests`: the
        rule of MESSAGE_TOKENS is published for it. `tools_tokens`: what having tools adds.
        """
        self._encoding = encoding
        self.exact = exact
        """The vocabulary is the model's own."""
        self._counts_requests = counts_requests
        self._percent = percent
        self._tools_tokens = tools_tokens

    def count(self, text: str) -> int:
        """Of a text longer than MAX_STEP_CHARS an estimate, by samples."""
        return self.scaled(self.raw(text))

    async def count_long(self, text: str) -> int:
        """Of a text of any length, in steps. Cancelled, nothing is left behind."""
        return self.scaled(await self._raw_of((text,)))

    async def count_request(self, request: ChatRequest) -> TokenCount:
        """Input tokens of a request, in steps. Cancelled, nothing is left behind."""
        texts = list(_texts(request))
        raw = await self._raw_of(texts)
        tokens = self.scaled(raw) + MESSAGE_TOKENS * len(request.messages) + REPLY_TOKENS
        tokens += IMAGE_TOKENS * _images_count(request)
        if request.tools:
            tokens += self._tools_tokens
        exact = (
            self._counts_requests
            and not request.tools
            and not isinstance(request.response_format, JsonSchemaFormat)
            and not request.provider_options
            and all(len(m.parts) == 1 and isinstance(m.parts[0], Text) for m in request.messages)
            and sum(map(len, texts)) <= MAX_COUNTED_CHARS
        )
        return TokenCount(tokens, exact)

    def raw(self, text: str) -> int:
        """Tokens of this vocabulary, before they are `scaled` to the model's: those of pieces add up."""
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
    """Tokens of an answer that arrives in pieces, which need not be tokens.

    Memory: the last 2,048 characters at most, once `add` has returned. What was cut apart in a word
    or in a long delta's samples may differ from the count of the whole, by far less than 2 %.
    """

    __slots__ = ("_chars", "_counter", "_pending", "_pending_raw", "_raw")

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._raw = 0
        self._pending: list[str] = []
        self._chars = 0  # in pending
        self._pending_raw: int | None = 0  # None: not counted yet

    def add(self, text: str) -> None:
        """Any text, empty too. Now and then it counts what has gathered, 0.1 ms."""
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
        """Right now. Counts what has come since it was asked last, and the last word again."""
        if self._pending_raw is None:
            text = "".join(self._pending)
            self._settle(text, _word_end(text, 1, len(text)))
            self._pending_raw = self._counter.raw("".join(self._pending))
        return self._counter.scaled(self._raw + self._pending_raw)

    def _settle(self, text: str, end: int) -> None:
        """Count what is pending, up to an end, for good."""
        if end:
            self._raw += self._counter.raw(text[:end])
            self._pending = [text[end:]]
            self._chars = len(text) - end


def estimate_input_tokens(request: ChatRequest) -> int:
    """A rough count at once, from the length of what the request says."""
    chars = sum(map(len, _texts(request)))
    return math.ceil(chars / CHARS_PER_TOKEN) + _images_count(request) * IMAGE_TOKENS


def _texts(request: ChatRequest) -> Iterator[str]:
    """All that a provider puts before its model."""
    for tool in request.tools:
        yield tool.name
        yield tool.description
        yield tool.parameters_json_schema
    if isinstance(request.response_format, JsonSchemaFormat):
        yield request.response_format.schema_json
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Text | Reasoning | ToolResult):
                yield part.text
            elif isinstance(part, ToolCall):
                yield part.name
                yield part.arguments_json


def _images_count(request: ChatRequest) -> int:
    return sum(isinstance(part, Image) for message in request.messages for part in message.parts)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > MAX_STEP_CHARS:
        end = _cut(text, start, start + MAX_STEP_CHARS)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """Where to end a piece of `text[start:end]`, near its end.

    Best before a space that follows a word and precedes a letter: there every vocabulary in use
    begins a new token, and the counts of both sides add up. In a text without such a place after a
    multiple of 256: a run of one character falls into tokens of 2, 4, ... 128.
    """
    lowest = max(start + 1, end - _CUT_WINDOW_CHARS)
    return _word_end(text, lowest, end) or end - (end - start) % _CUT_WINDOW_CHARS


def _word_end(text: str, lowest: int, end: int) -> int:
    """The last such place of `text[lowest:end]`. 0: there is none."""
    at = text.rfind(" ", lowest, end)
    while at > 0:
        if text[at + 1 : at + 2].isalpha() and not text[at - 1].isspace():
            return at
        at = text.rfind(" ", lowest, at)
    return 0
