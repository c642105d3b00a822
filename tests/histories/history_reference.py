"""What the log of an undisturbed stream holds, entry by entry, from the words of the simulator."""

from itertools import zip_longest
from urllib.parse import urlencode

import msgspec
from history import Entry, Reference

from tokenwire_server.simulator import (
    Scenario,
    generated_arguments,
    generated_reasoning,
    generated_text,
)
from tokenwire_server.simulator.words import fragments

PROVIDERS = ("openai", "openai-responses", "anthropic")
SIGNED = "signed"
FAULTS = ("drop_after", "error_event_after", "stall_after")


def model_of(provider: str, scenario: Scenario) -> str:
    """The model's name that scripts the scenario."""
    changed = {
        name: int(value) if isinstance(value, bool) else value
        for name, value in msgspec.to_builtins(scenario).items()
        if value != getattr(Scenario(), name)
    }
    return f"{provider}/sim?{urlencode(changed)}"


def reference_of(provider: str, scenario: Scenario) -> Reference:
    """The entries between Started and the end, and the end.

    Each token of the provider becomes one entry; what stands around it (a signature, the beginning
    and the end of a call) becomes entries of its own.
    """
    tokens = _tokens(provider, scenario)
    fault = next((name for name in FAULTS if getattr(scenario, name) is not None), None)
    if fault is None and not scenario.missing_end:
        entries = tuple(entry for group in tokens for entry in group)
        end = "TOOL_CALLS" if scenario.tools else "STOP"
        return Reference(entries, end, len(entries))
    count = len(tokens) - 1 if fault is None else getattr(scenario, fault)
    whole = tokens[: count + 1]
    # What stands after the last token, such as a signature, may or may not come before the fault.
    entries = [entry for group in tokens[:count] for entry in group]
    certain = len(entries)
    for entry in (entry for group in whole[count:] for entry in group):
        if entry.kind in ("text", "arguments", "call_started") or (
            entry.kind == "reasoning" and not entry.name
        ):
            break
        entries.append(entry)
    end = "UPSTREAM_BROKEN" if entries else "UPSTREAM_UNAVAILABLE"
    if fault == "stall_after":
        end = None
    elif scenario.drop == "rst":
        certain = 0  # what the kernel held is lost with the connection
    return Reference(tuple(entries), end, certain)


def _tokens(provider: str, scenario: Scenario) -> list[list[Entry]]:
    """The answer's tokens in order, each with the entries that it makes; last what makes no token."""
    tokens = [[Entry("reasoning", 0, text)] for text in generated_reasoning(scenario.reasoning)]
    after: list[Entry] = []  # entries that come once the next token, or the end, is there
    index = 0
    if tokens:
        index = 1
        if provider != "openai":
            after = [Entry("reasoning", 0, "", SIGNED)]
    for text in generated_text(scenario.tokens):
        tokens.append([*after, Entry("text", index, text)])
        after = []
    index += scenario.tokens > 0
    calls = [
        [(index + n, f"tool_{n}", piece) for piece in _pieces(scenario, n)]
        for n in range(scenario.tools)
    ]
    if provider == "anthropic":
        turns = [piece for call in calls for piece in call]
    else:
        turns = [piece for turn in zip_longest(*calls) for piece in turn if piece is not None]
    begun: set[int] = set()
    for at, name, piece in turns:
        group = after
        if at not in begun:
            if begun and provider == "anthropic":
                group = [*group, _done(index, at - 1)]
            begun.add(at)
            group = [*group, Entry("call_started", at, "", name)]
        tokens.append([*group, Entry("arguments", at, piece)])
        after = []
    last = range(index, index + scenario.tools)
    if provider == "anthropic":
        last = last[-1:]
    return [*tokens, after + [_done(index, at) for at in last]]


def _pieces(scenario: Scenario, ordinal: int) -> list[str]:
    return fragments(generated_arguments(ordinal), scenario.arg_fragments)


def _done(first: int, at: int) -> Entry:
    return Entry("call", at, generated_arguments(at - first), f"tool_{at - first}")
