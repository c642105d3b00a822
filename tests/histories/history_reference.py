"""The log of an undisturbed stream, entry by entry, computed from the simulator's text."""

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
    """Return the model name that scripts the scenario."""
    changed = {
        name: int(value) if isinstance(value, bool) else value
        for name, value in msgspec.to_builtins(scenario).items()
        if value != getattr(Scenario(), name)
    }
    return f"{provider}/sim?{urlencode(changed)}"


def reference_of(provider: str, scenario: Scenario) -> Reference:
    """Return the entries between Started and the end, and the end.

    Each token of the provider becomes one entry. A signature, and the start and the end of a call, are
    separate entries.
    """
    tokens = _tokens(provider, scenario)
    fault = next((name for name in FAULTS if getattr(scenario, name) is not None), None)
    if fault is None and not scenario.missing_end:
        entries = tuple(entry for group in tokens for entry in group)
        end = "TOOL_CALLS" if scenario.tools else "STOP"
        return Reference(entries, end, len(entries))
    count = len(tokens) - 1 if fault is None else getattr(scenario, fault)
    whole = tokens[: count + 1]
    # Entries after the last token, such as a signature, may arrive before the fault or not.
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
        certain = 0  # data in the kernel's buffers is lost with the connection
    return Reference(tuple(entries), end, certain)


def _tokens(provider: str, scenario: Scenario) -> list[list[Entry]]:
    """Yield the entries of each token in order, and at last the entries without a token."""
    tokens = [[Entry("reasoning", 0, text)] for text in generated_reasoning(scenario.reasoning)]
    after: list[Entry] = []  # entries that arrive with the next token or the end
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
