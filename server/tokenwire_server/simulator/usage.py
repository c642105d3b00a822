"""Usage in the providers' formats."""

from __future__ import annotations

from typing import Any

from .answer import Answer

_EXCESS = 0.25
"""Added to each figure with `float_usage`."""


def chat_usage(answer: Answer) -> dict[str, Any] | None:
    """Return the usage of Chat Completions, or None if there is none."""
    usage = answer.usage
    if usage is None:
        return None
    written: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if answer.scenario.cached_tokens_place == "top":
        written["cached_tokens"] = usage.cache_read_tokens
    else:
        written["prompt_tokens_details"] = {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": 0,
        }
    written["completion_tokens_details"] = {
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    return _with_figures(answer, written)


def responses_usage(answer: Answer) -> dict[str, Any] | None:
    """Return the usage of Responses, or None if there is none."""
    usage = answer.usage
    if usage is None:
        return None
    written = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    return _with_figures(answer, written)


def messages_usage(answer: Answer, model: str) -> dict[str, Any] | None:
    """Return the cumulative usage of Messages, or None if there is none."""
    usage = answer.usage
    if usage is None:
        return None
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    searches = answer.scenario.web_searches
    written: dict[str, Any] = {
        "input_tokens": usage.input_tokens - cached,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": 0}
        if searches
        else None,
    }
    if iterations := _iterations(answer, model, written):
        written["iterations"] = iterations
    return _with_figures(answer, written)


def messages_terms(answer: Answer) -> dict[str, Any]:
    """Return what the usage at the start of a message has besides the counts."""
    if answer.usage is None:
        return {}
    long = answer.usage.long_cache_write_tokens
    return {
        "cache_creation": {
            "ephemeral_5m_input_tokens": answer.usage.cache_write_tokens - long,
            "ephemeral_1h_input_tokens": long,
        },
        "service_tier": answer.scenario.service_tier or "standard",
    }


def _iterations(answer: Answer, model: str, total: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the usage of each sampling, if the message has more than one.

    https://platform.claude.com/docs/en/build-with-claude/compaction: the totals of a message are those of
    all its iterations except compactions.
    """
    scenario = answer.scenario
    counts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    nothing = dict.fromkeys(counts, 0)
    sampled = {"type": "message", **{name: total[name] for name in counts}}
    sampled["output_tokens"] = total["output_tokens"]
    iterations = [sampled]
    if scenario.fallback_model:
        declined = min(scenario.fallback_after, total["output_tokens"])
        iterations = [
            {**sampled, "model": model, "output_tokens": declined},
            {
                **nothing,
                "type": "fallback_message",
                "model": scenario.fallback_model,
                "output_tokens": total["output_tokens"] - declined,
            },
        ]
    if scenario.compaction_tokens:
        compaction = {
            **nothing,
            "type": "compaction",
            "input_tokens": total["input_tokens"],
            "output_tokens": scenario.compaction_tokens,
        }
        iterations = [compaction, *iterations]
    return iterations if len(iterations) > 1 else []


def _with_figures(answer: Answer, usage: dict[str, Any]) -> dict[str, Any]:
    """Return the usage with the kind of figures that the scenario has."""
    if not answer.scenario.float_usage:
        return usage
    return {name: _no_integer(value) for name, value in usage.items()}


def _no_integer(value: Any) -> Any:
    match value:
        case dict():
            return {name: _no_integer(inner) for name, inner in value.items()}
        case list():
            return [_no_integer(inner) for inner in value]
        case int():
            return value + _EXCESS
        case _:
            return value
