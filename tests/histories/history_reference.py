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
ATTEMPTS = 3
"""Maximum number of attempts at one model on the servers of the histories."""


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

    Each token of the provider becomes one entry. A signature, the start and the end of a call, and the notice
    of each further attempt are separate entries.
    """
    failing = failing_attempts(scenario)
    if failing == ATTEMPTS:
        notices = retries(ATTEMPTS)
        return Reference(notices, "UPSTREAM_UNAVAILABLE", len(notices))
    if failing:
        return _after(retries(1 + failing), _answer(provider, scenario.without_faults()))
    return _answer(provider, scenario)


def fallback_reference(attempts: int, provider: str, scenario: Scenario) -> Reference:
    """Return the reference of an answer by a fallback, after failed attempts at the requested model."""
    fallback = Entry("notice", attempts + 1, name="FALLBACK")
    return _after((*retries(attempts), fallback), reference_of(provider, scenario))


def failing_attempts(scenario: Scenario) -> int:
    """Return how many attempts of a stream fail before their content, and are repeated or the last."""
    is_early = 0 in (scenario.drop_after, scenario.error_event_after)
    if scenario.status is None and not is_early:
        return 0
    return min(scenario.fault_attempts or ATTEMPTS, ATTEMPTS)


def retries(attempts: int) -> tuple[Entry, ...]:
    """Return the notices of the attempts after the first one."""
    return tuple(Entry("notice", number, name="RETRYING") for number in range(2, attempts + 1))


def _after(notices: tuple[Entry, ...], answer: Reference) -> Reference:
    return Reference(notices + answer.entries, answer.end, len(notices) + answer.certain)


def _answer(provider: str, scenario: Scenario) -> Reference:
    """Return the reference of one attempt, without notices."""
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
