"""`tokenwire count`: the tokens and the cost of a chat, without starting it."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwire.v1.chat_pb2 import (
    TOKEN_COUNT_SOURCE_ESTIMATE,
    TOKEN_COUNT_SOURCE_PROVIDER,
    TOKEN_COUNT_SOURCE_TOKENIZER,
    TOKEN_COUNT_SOURCE_UNSPECIFIED,
    CountTokensResponse,
)

from ...wire.usage import TokenCount
from ..connection import Connection
from ..money import UNKNOWN, usd_text
from ..proto_json import write_json
from ..terminal import visible, write_stdout
from .chat_request import RequestOptions, chat_request

_SOURCES = {
    "provider": "exact: the provider counted this request",
    "tokenizer": "exact: counted with the model's own vocabulary",
    "estimate": "an estimate",
}
_SOURCE_VALUES = {
    "provider": TOKEN_COUNT_SOURCE_PROVIDER,
    "tokenizer": TOKEN_COUNT_SOURCE_TOKENIZER,
    "estimate": TOKEN_COUNT_SOURCE_ESTIMATE,
}


async def count(
    connection: Connection,
    options: RequestOptions,
    *,
    ask_provider: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Count the request, and print what the server answers.

    Raises:
        TokenwireError: the request would be refused, or it could not be counted.
    """
    counted = await counted_request(
        connection, options, ask_provider=ask_provider, timeout_s=timeout_s
    )
    if as_json:
        write_json(_response(counted), with_zeros=True)
        return
    has_budget = options.max_cost_microusd is not None
    lines = count_lines(counted, has_budget=has_budget)
    write_stdout("".join(visible(line) + "\n" for line in lines))


async def counted_request(
    connection: Connection,
    options: RequestOptions,
    *,
    ask_provider: bool = False,
    timeout_s: float,
) -> TokenCount:
    """Return the tokens and the cost of a request.

    Raises:
        TokenwireError: the request would be refused, or it could not be counted.
    """
    async with connection.client() as client:
        return await client.count_tokens(
            chat_request(options), ask_provider=ask_provider, timeout=timeout_s
        )


def count_lines(counted: TokenCount, *, has_budget: bool) -> Iterator[str]:
    """Return a count for people."""
    mark = "" if counted.source in ("provider", "tokenizer") else "~"
    source = _SOURCES.get(counted.source, "counted by a method that is unknown here")
    yield f"model: {counted.provider}/{counted.model}"
    yield f"input: {mark}{counted.input_tokens} tokens ({source})"
    yield f"input cost: {_cost_text(counted.input_cost_microusd, mark)}"
    most = counted.max_output_tokens
    output = UNKNOWN if most is None else f"{most} tokens"
    yield f"output at most: {output}"
    yield f"cost at most: {_cost_text(counted.max_cost_microusd, mark)}"
    if has_budget:
        yield f"budget: {'exceeded' if counted.exceeds_budget else 'not exceeded'}"


def _cost_text(microusd: int | None, mark: str) -> str:
    return UNKNOWN if microusd is None else mark + usd_text(microusd)


def _response(counted: TokenCount) -> CountTokensResponse:
    """Return the count as the message that the server sent."""
    return CountTokensResponse(
        input_tokens=counted.input_tokens,
        source=_SOURCE_VALUES.get(counted.source, TOKEN_COUNT_SOURCE_UNSPECIFIED),
        input_cost_microusd=counted.input_cost_microusd,
        max_output_tokens=counted.max_output_tokens,
        max_cost_microusd=counted.max_cost_microusd,
        exceeds_budget=counted.exceeds_budget,
        provider=counted.provider,
        model=counted.model,
    )
