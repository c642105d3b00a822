"""How much work a regular expression makes: repetitions with counts make its automaton large."""

from __future__ import annotations

import re

_MANY = 1e9

_tokens = re.compile(
    r"""\\[pP]\{[^}]*\}
      | \\.
      | \[\^?\]?(?:[^\]\\]|\\.)*+\]
      | \{(?P<least>[0-9]{1,9})(?P<comma>,(?P<most>[0-9]{1,9})?)?\}
      | .
    """,
    re.VERBOSE | re.DOTALL,
).finditer


def automaton_size(pattern: str) -> float:
    """Estimate the number of states of a pattern: it may be in all of them at each character of a text.

    A count repeats what is before it: a character, a class or a group with its own repetitions.
    """
    groups = [0.0]
    last = 0.0
    """Size of what a count would repeat."""
    for token in _tokens(pattern):
        text = token[0]
        if text == "(":
            groups.append(0.0)
            last = 0.0
            continue
        if text == ")" and len(groups) > 1:
            last = groups.pop() + 1
        elif token["least"] is not None:
            count = max(int(token["least"]), int(token["most"] or 0), 1)
            groups[-1] += last * (count - 1)
            last *= count
            continue
        elif text in "*+?|^$":
            groups[-1] += 1
            continue
        else:
            last = 1.0
        groups[-1] = min(groups[-1] + last, _MANY)
    return min(sum(groups), _MANY)
