"""`tokenwire count`: what a chat would take and cost, told before it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ...usage import TokenCount
from ..app import Arguments
from ..money import UNKNOWN, usd_text
from ..render import visible, write_json_line
from .chat_request import chat_request
from .client_for import client_for

_SOURCES = {
    "provider": "exact: the provider counted this very request",
    "tokenizer": "exact: counted with the model's own vocabulary",
    "estimate": "an estimate",
}


async def count(arguments: Arguments) -> None:
    """Count the request, and print what the server says of it.

    Raises:
        TokenwireError: the request would be refused, or nobody counted.
    """
    counted = await counted_request(arguments, timeout_s=arguments.timeout_s)
    if arguments.json:
        write_json_line(_json_object(counted))
        return
    budgeted = arguments.max_cost_microusd is not None
    sys.stdout.writelines(visible(line) + "\n" for line in count_lines(counted, budgeted=budgeted))
    sys.stdout.flush()


async def counted_request(arguments: Arguments, *, timeout_s: float | None) -> TokenCount:
    """What the request of these arguments would take.

    Raises:
        TokenwireError: it would be refused, or nobody counted.
    """
    async with client_for(arguments) as client:
        return await client.count_tokens(
            chat_request(arguments), ask_provider=arguments.ask_provider, timeout=timeout_s
        )


def count_lines(counted: TokenCount, *, budgeted: bool) -> Iterator[str]:
    """What a request would take, for people."""
    mark = "" if counted.source in ("provider", "tokenizer") else "~"
    source = _SOURCES.get(counted.source, "counted in a way that is unknown here")
    yield f"model: {counted.provider}/{counted.model}"
    yield f"input: {mark}{counted.input_tokens} tokens ({source})"
    yield f"input cost: {_cost_text(counted.input_cost_microusd, mark)}"
    most = counted.max_output_tokens
    output = UNKNOWN if most is None else f"{most} tokens"
    yield f"output at most: {output}"
    yield f"cost at most: {_cost_text(counted.max_cost_microusd, mark)}"
    if budgeted:
        yield f"budget: {'would refuse it' if counted.exceeds_budget else 'takes it'}"


def _cost_text(microusd: int | None, mark: str) -> str:
    return UNKNOWN if microusd is None else mark + usd_text(microusd)


def _json_object(counted: TokenCount) -> dict[str, Any]:
    """What is known of it, named as in the protocol's JSON."""
    named = {
        "inputTokens": counted.input_tokens,
        "source": counted.source or None,
        "inputCostMicrousd": counted.input_cost_microusd,
        "maxOutputTokens": counted.max_output_tokens,
        "maxCostMicrousd": counted.max_cost_microusd,
        "exceedsBudget": counted.exceeds_budget,
        "provider": counted.provider,
        "model": counted.model,
    }
    return {name: value for name, value in named.items() if value is not None}
