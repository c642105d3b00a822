"""The usage of an answer in Anthropic's Messages format, as its provider bills it.

https://platform.claude.com/docs/en/api/messages and the types `Usage` and `BetaUsage` of the SDK.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ....events import Usage as UsageFigures
from ..base import MAX_NAME_CHARS
from ..json import join_surrogates

MAX_TOKENS = 2**53
MAX_ITERATIONS = 1000
"""Maximum number of iterations that are read."""
MAX_SERVER_TOOLS = 32
"""Maximum number of the provider's own tools whose calls are counted."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]

_APART = frozenset({"compaction", "advisor_message"})
"""Types of iterations that the figures of the whole message do not include."""


class CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: Tokens | None = None
    ephemeral_1h_input_tokens: Tokens | None = None


class OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: Tokens | None = None


class Iteration(msgspec.Struct, gc=False):
    """Token counts of one of several requests to models that make up the answer."""

    type: str = ""
    model: str | None = None
    input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None


class Usage(msgspec.Struct, gc=False):
    """Cumulative token counts. `input_tokens` excludes tokens read from and written to the cache."""

    input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: dict[str, Tokens | None] | None = None
    service_tier: str | None = None
    speed: str | None = None
    iterations: list[Iteration] | None = None


class _Counts(msgspec.Struct, gc=False):
    """Counts that can be added."""

    input: int
    cache_read: int
    cache_write: int
    long_cache_write: int
    output: int

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(*(min(a + b, MAX_TOKENS) for a, b in _pairs(self, other)))

    def above(self, other: _Counts) -> _Counts:
        """Return the difference of each count to the other one, at least 0."""
        return _Counts(*(max(a - b, 0) for a, b in _pairs(self, other)))


_NOTHING = _Counts(0, 0, 0, 0, 0)


class Bill:
    """The latest figures of one answer. Figures that the provider repeats are replaced, never added.

    A figure that is not sent again, or as 0, keeps its value: some servers write zeros for what they
    counted before. Only the output of `message_start` is a placeholder, which any later figure replaces.

    An answer may consist of several requests to models: `usage.iterations`. The figures of the message
    contain neither compactions nor calls of advisors, which are billed as well. An attempt of a model that
    declined before any output is not billed.
    https://platform.claude.com/docs/en/build-with-claude/compaction#understanding-usage
    https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
    """

    __slots__ = ("_has_input", "_has_output", "_latest", "model")

    def __init__(self) -> None:
        self.model = ""
        """The model that began the answer."""
        self._latest = Usage()
        self._has_input = False
        """Whether the provider reported the input. A refusal may report 0."""
        self._has_output = False

    @property
    def fallback_model(self) -> str:
        """The model that completed the answer instead of the requested one, or ""."""
        models = [i.model for i in self._latest.iterations or () if i.type == "fallback_message"]
        return _name(models[-1]) if models else ""

    def update(self, usage: Usage, *, is_final: bool) -> UsageFigures:
        """Take new figures, and return those of the whole answer. Only the last ones are final."""
        if usage.output_tokens is not None and not self._has_output:
            self._latest.output_tokens = None
            self._has_output = is_final
        if is_final and usage.input_tokens is not None:
            self._has_input = True
        for name in Usage.__struct_fields__:
            value = getattr(usage, name)
            if _has_counts(value) or getattr(self._latest, name) is None:
                setattr(self._latest, name, value)
        counts = _counts(self._latest)
        if counts.input or counts.cache_read or counts.cache_write:
            self._has_input = True
        return self._figures(counts)

    def _figures(self, message: _Counts) -> UsageFigures:
        latest = self._latest
        entries = self._by_model(message)
        total = sum((counts for _, counts in entries), start=_NOTHING)
        is_plain = len(entries) == 1 and entries[0][0] == self.model
        details = latest.output_tokens_details
        has_reads = total.cache_read or latest.cache_read_input_tokens is not None
        has_writes = total.cache_write or latest.cache_creation_input_tokens is not None
        has_long_writes = total.long_cache_write or _long_writes(latest) is not None
        return UsageFigures(
            input_tokens=total.input + total.cache_read + total.cache_write,
            output_tokens=total.output,
            reasoning_tokens=details.thinking_tokens if details is not None else None,
            cache_read_tokens=total.cache_read if has_reads else None,
            cache_write_tokens=total.cache_write if has_writes else None,
            long_cache_write_tokens=total.long_cache_write if has_long_writes else None,
            server_tools=_server_tools(latest.server_tool_use or {}),
            service_tier=_service_tier(latest),
            by_model=()
            if is_plain
            else tuple((model, _model_usage(counts)) for model, counts in entries),
            estimated=not (self._has_input and self._has_output),
        )

    def _by_model(self, message: _Counts) -> list[tuple[str, _Counts]]:
        """Return the billed figures of each iteration, with the model that ran it.

        Iterations of one model are not added up: the price of each depends on the length of its own input.
        If the figures of the message are above those of its iterations, the rest belongs to the model that
        completed the answer.
        """
        fallback = self.fallback_model
        serving = fallback or self.model
        entries: list[tuple[str, _Counts]] = []
        included = _NOTHING
        for iteration in (self._latest.iterations or [])[:MAX_ITERATIONS]:
            counts = _counts(iteration)
            model = _name(iteration.model) or self.model
            if fallback and iteration.type == "message" and model != fallback and not counts.output:
                continue  # it declined before any output
            entries.append((model, counts))
            if iteration.type not in _APART:
                included += counts
        rest = message.above(included)
        if rest != _NOTHING or not entries:
            last = max(
                (i for i, (model, _) in enumerate(entries) if model == serving), default=None
            )
            if last is None:
                entries.append((serving, rest))
            else:
                entries[last] = (serving, entries[last][1] + rest)
        return entries


def _has_counts(value: object) -> bool:
    """Return whether a field of a usage contains more than zeros."""
    if isinstance(value, msgspec.Struct):
        return any(msgspec.structs.astuple(value))
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _counts(usage: Usage | Iteration) -> _Counts:
    creation = usage.cache_creation or CacheCreation()
    long_write = creation.ephemeral_1h_input_tokens or 0
    write = usage.cache_creation_input_tokens or (
        (creation.ephemeral_5m_input_tokens or 0) + long_write
    )
    return _Counts(
        input=usage.input_tokens or 0,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write=write,
        long_cache_write=min(long_write, write),
        output=usage.output_tokens or 0,
    )


def _model_usage(counts: _Counts) -> UsageFigures:
    return UsageFigures(
        input_tokens=counts.input + counts.cache_read + counts.cache_write,
        output_tokens=counts.output,
        cache_read_tokens=counts.cache_read,
        cache_write_tokens=counts.cache_write,
        long_cache_write_tokens=counts.long_cache_write,
    )


def _long_writes(usage: Usage) -> int | None:
    return (usage.cache_creation or CacheCreation()).ephemeral_1h_input_tokens


def _server_tools(uses: dict[str, int | None]) -> tuple[tuple[str, int], ...]:
    """Return how often each tool was called, without those that were not."""
    named = ((_name(key.removesuffix("_requests")), count) for key, count in uses.items())
    called = sorted((name, count) for name, count in named if name and count)
    return tuple(called[:MAX_SERVER_TOOLS])


def _service_tier(usage: Usage) -> str:
    """Return the tier of service. A speed other than the standard one is a tier of its own."""
    if usage.speed and usage.speed != "standard":
        return _name(usage.speed)
    return _name(usage.service_tier)


def _name(text: str | None) -> str:
    return join_surrogates((text or "")[:MAX_NAME_CHARS])


def _pairs(a: _Counts, b: _Counts) -> zip[tuple[int, int]]:
    return zip(msgspec.structs.astuple(a), msgspec.structs.astuple(b), strict=True)
