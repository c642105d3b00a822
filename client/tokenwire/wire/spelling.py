"""Names of other APIs for fields and arguments, and the nearest name for a misspelled one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_THROUGH = (
    "it has no field of its own; pass it to the provider with provider_options={{{name!r}: ...}}"
)

HINTS: Mapping[str, str] = {
    "deadline": "use timeout, in seconds",
    "effort": 'use reasoning, such as reasoning="high"',
    "extra_body": "use provider_options",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "input": "use messages, the second argument",
    "instructions": "begin the messages with tokenwire.system(...)",
    "json_schema": "use response_format=json_format(name, schema), or a class",
    "max_cost": "use max_cost_microusd",
    "max_completion_tokens": "use max_output_tokens",
    "max_new_tokens": "use max_output_tokens",
    "max_tokens": "use max_output_tokens",
    "metadata": "use labels, which are copied to the usage record",
    "n": "a request has one answer; send several requests",
    "parallel_tool_calls": 'use tool_choice={"parallel": ...}',
    "prompt": "use messages, the second argument",
    "reasoning_effort": 'use reasoning, such as reasoning="high"',
    "resumable": "use chat_stream or run_tools, which read streams",
    "stop": "use stop_sequences",
    "stream": "use chat_stream, which streams, or chat, which does not",
    "stream_options": 'use delivery={"usage_interval": ...}; the usage is always at the end of a stream',
    "system": "begin the messages with tokenwire.system(...)",
    "thinking": 'use reasoning, such as reasoning={"budget_tokens": 2048}',
    "thinking_budget": 'use reasoning={"budget_tokens": ...}',
    "top_logprobs": "use logprobs, such as logprobs=5",
    **{
        name: _THROUGH.format(name=name)
        for name in (
            "logit_bias",
            "modalities",
            "prediction",
            "prompt_cache_key",
            "safety_identifier",
            "store",
            "user",
            "verbosity",
            "web_search_options",
        )
    },
}
"""The replacement for the name of a request field in another API."""

_TARGET = 'use target, such as target="host:50051"'

CLIENT_HINTS: Mapping[str, str] = {
    "address": _TARGET,
    "api_base": _TARGET,
    "api_key": "use key",
    "auth_token": "use key",
    "base_url": _TARGET,
    "credentials": "use tls and key",
    "endpoint": _TARGET,
    "host": _TARGET,
    "secure": "use tls",
    "ssl": "use tls",
    "timeout": "give it to each call, such as chat",
    "token": "use key",
    "url": _TARGET,
    "verify": "use tls",
}
"""The replacement for the name of an argument of another client."""

USAGE_HINTS: Mapping[str, str] = {
    "after": "use since",
    "before": "use until",
    "end": "use until",
    "end_time": "use until",
    "finish_reason": "use outcomes",
    "group_by": "use usage_summary",
    "key": "use key_prefix",
    "limit": "stop reading after that many records",
    "metadata": "use labels",
    "start": "use since",
    "start_time": "use since",
    "state": "use outcomes",
    "status": "use outcomes",
    "tags": "use labels",
}
"""The replacement for the name of a usage filter in another API or in the protocol."""


def refuse_unknown(
    given: Iterable[str],
    names: Iterable[str],
    options: Iterable[str] = (),
    *,
    hints: Mapping[str, str] = HINTS,
) -> None:
    """Raise TypeError if a given name is not among the names. See `unknown_name`."""
    names = frozenset(names)
    if unknown := sorted(set(given) - names):
        raise TypeError("; ".join(unknown_name(name, names, options, hints) for name in unknown))


def unknown_name(
    name: str,
    names: Iterable[str],
    options: Iterable[str] = (),
    hints: Mapping[str, str] = HINTS,
) -> str:
    """Return the error text for an unknown name, with the right name if that is known.

    `options` are arguments that some methods have. They are suggested, but not listed.
    """
    from difflib import get_close_matches  # not needed by most programs

    known = sorted(names)
    hint = hints.get(name)
    if hint is None and name in options:
        hint = "this method does not have this argument"
    if hint is None and (nearest := get_close_matches(name, [*known, *options], n=1)):
        hint = f"did you mean {nearest[0]}?"
    return f"unknown name {name!r}: {hint or 'the names are ' + ', '.join(known)}"
