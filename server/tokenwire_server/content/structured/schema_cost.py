"""How much work a schema makes: a few lines can require work that grows exponentially.

The validator checks a subschema again for each way that leads to it. Without recursion, the ways are limited
by what the schema expands to. With recursion, they multiply at each level of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from .bounds import MAX_DEPTH
from .schema_graph import Node

Edges = Callable[[int], Sequence[int]]

MAX_COUNTED = 5_000
"""Subschemas that are looked at to count the ways, in all levels together: 3.5 us each."""
_MANY = 1e12


def expanded_size(nodes: list[Node]) -> float:
    """Return the number of subschemas if each reference is replaced by what it refers to."""
    return _expanded(nodes, [1.0] * len(nodes))


def pattern_steps(nodes: list[Node]) -> float:
    """Return at most how many steps all patterns take for each character of a document."""
    return _expanded(nodes, [node.pattern_steps for node in nodes])


def _expanded(nodes: list[Node], weights: list[float]) -> float:
    """Add up the weights of all subschemas if each reference is replaced by what it refers to.

    A reference that is part of a recursion is not replaced: the validator remembers its results.
    """
    children = [_children(node) for node in nodes]
    order = post_order(len(nodes), lambda n: [*children[n], *nodes[n].references])
    component = _components(children, nodes, order)
    sizes = [0.0] * len(nodes)
    rank: dict[int, int] = {}
    for number in order:  # a component comes after all that it leads to
        rank.setdefault(component[number], len(rank))
    # A child is found after its parent, so that it has the larger number.
    for number in sorted(range(len(nodes)), key=lambda n: (rank[component[n]], -n)):
        size = weights[number] + sum(sizes[child] for child in children[number])
        for target in nodes[number].references:
            if component[target] != component[number]:
                size += sizes[target]
        sizes[number] = min(size, _MANY)
    return sizes[0]


def checks_per_value(nodes: list[Node]) -> list[float]:
    """Return at most how many subschemas are checked on the way to a value, by the depth of the document.

    The last figure is that of all deeper documents, at most MAX_DEPTH. It is infinite if counting would take
    too long.
    """
    found = [0.0]
    same = [[*node.same_value, *node.references] for node in nodes]
    order = post_order(len(nodes), same.__getitem__)
    total = [0.0] * len(nodes)
    while len(found) <= MAX_DEPTH + 1:
        if len(nodes) * len(found) > max(MAX_COUNTED, len(nodes)):
            return [*found, inf]
        own = [0.0] * len(nodes)
        members = [0.0] * len(nodes)
        elements = [0.0] * len(nodes)
        before = total
        total = [0.0] * len(nodes)
        for number in order:
            node = nodes[number]
            own[number] = 1.0 + sum(own[n] for n in same[number])
            members[number] = sum(members[n] for n in same[number]) + _most(node.members, before)
            elements[number] = sum(elements[n] for n in same[number]) + _most(node.elements, before)
            ways = own[number] + max(members[number], elements[number])
            total[number] = min(ways, _MANY)
        if total == before:
            break
        found.append(total[0])
    return found


def has_cycle(nodes: list[Node]) -> int | None:
    """Return a subschema that applies to a value because it applies to the same value, or None."""
    same = [[*node.same_value, *node.references] for node in nodes]
    place = {number: at for at, number in enumerate(post_order(len(nodes), same.__getitem__))}
    for number, targets in enumerate(same):
        if any(place[target] >= place[number] for target in targets):
            return number
    return None


def is_flat(nodes: list[Node]) -> bool:
    """Return whether `anyOf` and `oneOf` are used for values without values inside only."""
    same = [[*node.same_value, *node.references] for node in nodes]
    has_inner = [False] * len(nodes)
    for number in post_order(len(nodes), same.__getitem__):
        node = nodes[number]
        inner = any(has_inner[n] for n in same[number])
        if node.has_branches and inner:
            return False
        has_inner[number] = inner or any(node.members) or any(node.elements)
    return True


def post_order(count: int, edges: Edges) -> list[int]:
    """Return all numbers below `count`, each after those that it leads to, except in cycles."""
    order: list[int] = []
    seen = [False] * count
    for first in range(count):
        if seen[first]:
            continue
        seen[first] = True
        stack = [(first, iter(edges(first)))]
        while stack:
            number, following = stack[-1]
            target = next((n for n in following if not seen[n]), None)
            if target is None:
                order.append(number)
                stack.pop()
            else:
                seen[target] = True
                stack.append((target, iter(edges(target))))
    return order


def _children(node: Node) -> list[int]:
    groups = [*node.members, *node.elements]
    return [*node.same_value, *(number for group in groups for number in group)]


def _components(children: list[list[int]], nodes: list[Node], order: list[int]) -> list[int]:
    """Return which cycle each subschema belongs to (Kosaraju's algorithm)."""
    leading_here: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for target in [*children[number], *node.references]:
            leading_here[target].append(number)
    component = [-1] * len(nodes)
    for root in reversed(order):
        if component[root] >= 0:
            continue
        component[root] = root
        waiting = [root]
        while waiting:
            for number in leading_here[waiting.pop()]:
                if component[number] < 0:
                    component[number] = root
                    waiting.append(number)
    return component


def _most(groups: list[list[int]], ways: list[float]) -> float:
    return sum(max((ways[number] for number in group), default=0.0) for group in groups)
