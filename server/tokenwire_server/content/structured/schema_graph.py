"""The subschemas of a JSON Schema, what they refer to, and what checking a document with them costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from .pattern_cost import automaton_size
from .pointers import join

MAX_PATTERNS = 64

_SAME, _NAMED, _MEMBER, _PLACED, _ELEMENT, _UNUSED = range(6)

_SCHEMAS = {
    **dict.fromkeys(("not", "if", "then", "else"), _SAME),
    **dict.fromkeys(("additionalProperties", "unevaluatedProperties", "propertyNames"), _MEMBER),
    **dict.fromkeys(("items", "additionalItems", "unevaluatedItems", "contains"), _ELEMENT),
}
"""Keywords whose value is a subschema."""
_LISTS = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _SAME),
    **dict.fromkeys(("prefixItems", "items"), _PLACED),
}
"""Keywords whose value is a list of subschemas."""
_MAPS = {
    **dict.fromkeys(("dependentSchemas", "dependencies"), _SAME),
    "properties": _NAMED,
    "patternProperties": _MEMBER,
    **dict.fromkeys(("$defs", "definitions"), _UNUSED),
}
"""Keywords whose value is an object of subschemas."""
_ANYTHING: dict[str, Any] = {}
_BRANCHES = {"anyOf", "oneOf"}
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class SchemaRefused(Exception):
    """The schema cannot be used. `pointer` is the JSON Pointer of the part that is refused."""

    def __init__(self, problem: str, pointer: str = "") -> None:
        super().__init__(f"{problem}, at {pointer!r}" if pointer else problem)
        self.problem = problem
        self.pointer = pointer


class Node:
    """A subschema. Others are given by their number."""

    __slots__ = (
        "elements",
        "has_branches",
        "members",
        "pattern_steps",
        "pointer",
        "references",
        "same_value",
    )

    def __init__(self, pointer: str, *, has_branches: bool) -> None:
        self.pointer = pointer
        self.same_value: list[int] = []
        """Subschemas that apply to the same value."""
        self.references: list[int] = []
        self.members: list[list[int]] = [[]]
        """Subschemas of an object's members. Of each list, only one applies to the same member."""
        self.elements: list[list[int]] = [[]]
        """The same for an array's elements."""
        self.pattern_steps = 0.0
        """Steps for each character of a text that its patterns are matched with."""
        self.has_branches = has_branches
        """Whether all subschemas are tried, and reported if none applies: `anyOf` and `oneOf`."""


class _Found(NamedTuple):
    schema: dict[str, Any]
    pointer: str


class SchemaGraph:
    """All subschemas that apply to a document, from that of the document itself, which is number 0."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises SchemaRefused if a reference leads out of the document, or nowhere."""
        self.nodes: list[Node] = []
        self.patterns_count = 0
        self._root = schema
        self._numbers: dict[int, int] = {}
        """Number of a subschema by the `id` of its object."""
        self._anchors: dict[str, _Found] = {}
        self._references: list[tuple[int, str, str]] = []
        self._found: list[_Found] = []
        self._add(_Found(schema, ""))
        self._resolve()
        for node, found in zip(self.nodes, self._found, strict=True):
            for child, kind in _children(found):
                self._connect(node, self._numbers[id(child.schema)], kind)

    def _add(self, root: _Found) -> int:
        """Add a subschema and those inside it, unless they were added. Return its number."""
        waiting = [root]
        while waiting:
            found = waiting.pop()
            if id(found.schema) in self._numbers:
                continue
            self._begin(found)
            waiting += [child for child, _ in _children(found)]
        return self._numbers[id(root.schema)]

    def _begin(self, found: _Found) -> int:
        number = self._numbers[id(found.schema)] = len(self.nodes)
        self.nodes.append(Node(found.pointer, has_branches=bool(_BRANCHES & found.schema.keys())))
        self._found.append(found)
        schema, pointer = found
        if "$ref" in schema and not isinstance(schema["$ref"], str):
            raise SchemaRefused("a reference must be a string", join(pointer, "$ref"))
        for keyword in ("$id", "id", "$schema"):
            if pointer and isinstance(schema.get(keyword), str):
                problem = f"{keyword} is only supported in the whole schema"
                raise SchemaRefused(problem, join(pointer, keyword))
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := schema.get(keyword), str):
                self._anchors[anchor] = found
        for keyword in _REFERENCES:
            if isinstance(target := schema.get(keyword), str):
                self._references.append((number, target, join(pointer, keyword)))
        patterns = [schema.get("pattern"), *_names(schema.get("patternProperties"))]
        self.patterns_count += len(patterns) - (patterns[0] is None)
        if self.patterns_count > MAX_PATTERNS:
            raise SchemaRefused(f"the schema has more than {MAX_PATTERNS} patterns", pointer)
        self.nodes[number].pattern_steps = sum(
            automaton_size(pattern) for pattern in patterns if isinstance(pattern, str)
        )
        return number

    def _connect(self, node: Node, child: int, kind: int) -> None:
        if kind == _SAME:
            node.same_value.append(child)
        elif kind in (_NAMED, _PLACED):
            groups = node.members if kind == _NAMED else node.elements
            groups[0].append(child)
        elif kind != _UNUSED:
            (node.members if kind == _MEMBER else node.elements).append([child])

    def _resolve(self) -> None:
        base = self._root.get("$id")
        own = base.rstrip("#") if isinstance(base, str) else ""
        resolved = 0
        while resolved < len(self._references):
            number, reference, pointer = self._references[resolved]
            resolved += 1
            document, _, fragment = reference.partition("#")
            if document not in ("", own):
                raise SchemaRefused("a reference leads out of the schema", pointer)
            found = self._find(unquote(fragment))
            if found is None:
                raise SchemaRefused("a reference leads to no schema", pointer)
            self.nodes[number].references.append(self._add(found))

    def _find(self, fragment: str) -> _Found | None:
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        value: Any = self._root
        for part in fragment.split("/")[1:]:
            step = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        if isinstance(value, bool):
            return _Found(_ANYTHING, fragment)
        return _Found(value, fragment) if isinstance(value, dict) else None


def _names(value: object) -> Iterable[object]:
    return value if isinstance(value, dict) else ()


def _children(found: _Found) -> Iterator[tuple[_Found, int]]:
    """Yield the subschemas directly inside a subschema, and what they apply to."""
    for keyword, value in found.schema.items():
        inner: Iterable[tuple[tuple[str | int, ...], Any]] = ()
        kind = _UNUSED
        if isinstance(value, dict) and keyword in _SCHEMAS:
            inner, kind = [((keyword,), value)], _SCHEMAS[keyword]
        elif isinstance(value, dict) and keyword in _MAPS:
            inner, kind = (((keyword, step), v) for step, v in value.items()), _MAPS[keyword]
        elif isinstance(value, list) and keyword in _LISTS:
            inner, kind = (((keyword, at), v) for at, v in enumerate(value)), _LISTS[keyword]
        for path, schema in inner:
            if isinstance(schema, dict):
                yield _Found(schema, join(found.pointer, *path)), kind
