"""The usage of Chat Completions, and what other servers make of it."""

from __future__ import annotations

from typing import Any

import msgspec

from ....events import Usage as UsageFigures
from ..base import MAX_NAME_CHARS
from ..json import join_surrogates

MAX_TOKENS = 2**53
MAX_SERVER_TOOLS = 16
"""Maximum number of tools of the provider whose calls are counted."""
_CACHED = ("cache_read_tokens", "cache_write_tokens", "long_cache_write_tokens")
_DETAILS = ("reasoning_tokens", *_CACHED, "server_tools", "service_tier")


class CacheWrites(msgspec.Struct, gc=False):
    """The parts of the cache writes, by how long the provider keeps them."""

    ephemeral_1h_input_tokens: int | None = None


class InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    """LiteLLM."""
    cache_creation_input_tokens: int | None = None
    """Qwen."""
    cache_creation_token_details: CacheWrites | None = None
    """LiteLLM."""


class OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek."""
    cached_tokens: int | None = None
    """Moonshot, Together."""
    cache_read_input_tokens: int | None = None
    """Anthropic's names, which LiteLLM and gateways to Bedrock pass on."""
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheWrites | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Perplexity, SGLang."""
    server_tool_use: dict[str, int | None] | None = None
    """OpenRouter and LiteLLM: {"web_search_requests": 2}."""
    server_tool_use_details: dict[str, int | None] | None = None
    num_search_queries: int | None = None
    """Perplexity."""
    service_tier: str | None = None


def usage_figures(usage: Usage, service_tier: str | None = None) -> UsageFigures | None:
    """Return the figures in Tokenwire's convention, or None if they are missing or invalid.

    Servers that give one figure under several names repeat it. Gateways to Anthropic may leave cached tokens
    out of `prompt_tokens`, but not out of `total_tokens`. Others (xAI, Gemini) count reasoning in
    `total_tokens`, but not in `completion_tokens`.
    """
    details = usage.prompt_tokens_details or InputDetails()
    cache_read = _greatest(
        details.cached_tokens,
        usage.prompt_cache_hit_tokens,
        usage.cached_tokens,
        usage.cache_read_input_tokens,
    )
    cache_write = _greatest(
        details.cache_write_tokens,
        details.cache_creation_tokens,
        details.cache_creation_input_tokens,
        usage.cache_creation_input_tokens,
        usage.cache_write_tokens,
    )
    kept_writes = (details.cache_creation_token_details, usage.cache_creation)
    long_cache_write = _greatest(
        *(writes.ephemeral_1h_input_tokens for writes in kept_writes if writes is not None)
    )
    if long_cache_write is not None:
        cache_write = max(cache_write or 0, long_cache_write)
    output_details = usage.completion_tokens_details or OutputDetails()
    reasoning = _greatest(output_details.reasoning_tokens, usage.reasoning_tokens)
    input_, output = _input_and_output(usage, (cache_read or 0) + (cache_write or 0), reasoning)
    if not (0 <= input_ <= MAX_TOKENS and 0 <= output <= MAX_TOKENS):
        return None
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    return UsageFigures(
        input_,
        output,
        reasoning,
        cache_read,
        cache_write,
        long_cache_write,
        server_tools=_server_tools(usage),
        service_tier=join_surrogates((service_tier or usage.service_tier or "")[:MAX_NAME_CHARS]),
    )


def latest(earlier: UsageFigures | None, figures: UsageFigures) -> UsageFigures:
    """Return the figures that count after a later report.

    Zeros in it do not erase earlier figures, nor does what is missing: Groq repeats its figures without
    their details.
    """
    if earlier is None:
        return figures
    kept: dict[str, Any] = {}
    for name in _DETAILS:
        known = getattr(earlier, name)
        if known and getattr(figures, name) in (None, (), ""):
            kept[name] = known
    if not figures.input_tokens:
        kept["input_tokens"] = earlier.input_tokens
        kept |= {name: getattr(earlier, name) for name in _CACHED if not getattr(figures, name)}
    if not figures.output_tokens:
        kept |= {
            "output_tokens": earlier.output_tokens,
            "reasoning_tokens": earlier.reasoning_tokens,
        }
    return msgspec.structs.replace(figures, **kept) if kept else figures


def _input_and_output(usage: Usage, cached: int, reasoning: int | None) -> tuple[int, int]:
    """Return the input with the cached tokens, and the output with the reasoning."""
    input_, output = usage.prompt_tokens or 0, usage.completion_tokens or 0
    total = usage.total_tokens or 0
    if usage.prompt_tokens is None:
        return max(total - output, 0), output
    uncounted = total - input_ - output
    if cached > input_ or (cached and uncounted == cached):
        input_ += cached
        uncounted -= cached
    elif cached and reasoning and uncounted == cached + reasoning:
        input_, output = input_ + cached, output + reasoning
        uncounted = 0
    if uncounted > 0 and reasoning in (None, uncounted):
        output += uncounted
    return input_, output


def _greatest(*counts: int | None) -> int | None:
    """Return the greatest valid count, or None if there is none."""
    return max(
        (count for count in counts if count is not None and 0 <= count <= MAX_TOKENS), default=None
    )


def _server_tools(usage: Usage) -> tuple[tuple[str, int], ...]:
    if not (usage.server_tool_use or usage.server_tool_use_details or usage.num_search_queries):
        return ()
    counts = {"web_search": usage.num_search_queries or 0}
    for tools in (usage.server_tool_use, usage.server_tool_use_details):
        for name, count in (tools or {}).items():
            if name.endswith("_requests") and count is not None and 0 < count <= MAX_TOKENS:
                tool = join_surrogates(name.removesuffix("_requests")[:MAX_NAME_CHARS])
                counts[tool] = max(count, counts.get(tool, 0))
    named = sorted((name, count) for name, count in counts.items() if count > 0)
    return tuple(named[:MAX_SERVER_TOOLS])
