"""The usage of an OpenAI Responses answer: tokens, and calls of the provider's own tools."""

from __future__ import annotations

import msgspec

from ....events import Usage
from ..base import MAX_NAME_CHARS
from ..json import join_surrogates
from ..openai_chat import usage as openai_chat_usage
from . import wire

TOOLS = {
    "code_interpreter_call": "code_interpreter",
    "file_search_call": "file_search",
    "image_generation_call": "image_generation",
    "mcp_call": "mcp",
    "web_search_call": "web_search",
}
"""Names of the tools that the provider runs itself, by the type of their items."""
MAX_CALLS = 4096
"""Maximum number of calls that are counted in the stream, and in the final response."""


class ToolCounts:
    """Counts the calls of the provider's tools. A call that is reported again counts once."""

    __slots__ = ("_calls", "_final_calls")

    def __init__(self) -> None:
        self._calls: set[tuple[str, str | int | None]] = set()
        self._final_calls: set[tuple[str, str | int | None]] = set()

    def add(self, call: wire.ServerToolCall, index: int | None, *, is_final: bool = False) -> None:
        """Count a finished call, unless it failed. Searches within a found page are not billed."""
        tool = TOOLS.get(call.type)
        calls = self._final_calls if is_final else self._calls
        if tool is None or call.status == "failed" or len(calls) >= MAX_CALLS:
            return
        if tool != "web_search" or call.action is None or call.action.type in ("", "search"):
            calls.add((tool, call.id or index))

    def counts(self, usage: wire.ToolUsage | None) -> tuple[tuple[str, int], ...]:
        """Return the number of calls of each tool. The provider's own count of searches has precedence."""
        counts = {
            tool: max(
                sum(called == tool for called, _ in calls)
                for calls in (self._calls, self._final_calls)
            )
            for tool in TOOLS.values()
        }
        if usage is not None and usage.web_search is not None:
            billed = usage.web_search.num_requests
            counts["web_search"] = counts["web_search"] if billed is None else billed
        return tuple(sorted((tool, count) for tool, count in counts.items() if count))


def usage_of(response: wire.Response, tools: ToolCounts) -> Usage | None:
    """Return the usage of a final response, or None if it does not have the tokens.

    Gateways leave cached tokens or reasoning out of the same figures as in Chat Completions.
    """
    usage = response.usage
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    of_input = usage.input_tokens_details or wire.InputDetails()
    of_output = usage.output_tokens_details or wire.OutputDetails()
    figures = openai_chat_usage.usage_figures(
        openai_chat_usage.Usage(
            prompt_tokens=usage.input_tokens,
            completion_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            prompt_tokens_details=openai_chat_usage.InputDetails(
                of_input.cached_tokens, of_input.cache_write_tokens
            ),
            completion_tokens_details=openai_chat_usage.OutputDetails(of_output.reasoning_tokens),
        )
    )
    if figures is None:
        return None
    return msgspec.structs.replace(
        figures,
        server_tools=tools.counts(response.tool_usage),
        service_tier=join_surrogates((response.service_tier or "")[:MAX_NAME_CHARS]),
    )
