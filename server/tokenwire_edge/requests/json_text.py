"""Parse JSON from callers: strictly, and with the place of each fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from ..problems import Problem
from .violations import INVALID_REQUEST, MAX_VIOLATIONS, Path, extended, invalid_request, kind_of

MAX_SEPARATORS = 250_000
"""Commas, lists and objects in one text. A message of so many takes 0.4 s and 60 MB. The server's own limit
is 100,000 fields (setting), each of which needs one or two."""


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body or a frame contains.

    Stricter than `json.loads`: UTF-8 only, no NaN and Infinity, no key twice in one object, and at most
    MAX_SEPARATORS commas, lists and objects. Takes 3 to 8 ms for each MiB of text, and at most 60 ms for
    so many objects.

    Raises:
        Problem: 400 INVALID_REQUEST, with the line and column or the path of the fault.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        _refuse(f"the body is not UTF-8 at {_place(body[: error.start].decode())}")
    if not text.strip():
        _refuse("the body is empty; it must be a JSON object")
    if text.startswith("\ufeff"):
        _refuse("the body begins with a byte order mark; JSON has none")
    _check_count(body)
    return _parse(text)


def _parse(text: str) -> dict[str, Any]:
    faults: list[tuple[object, str, str]] = []
    """The object or value with a fault, the key in it, and what is wrong."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            keys: set[str] = set()
            for key, _ in pairs:
                if key in keys and len(faults) <= MAX_VIOLATIONS:
                    faults.append((members, key, "is given twice"))
                keys.add(key)
        return members

    def constant(name: str) -> _Constant:
        found = _Constant()
        faults.append((found, "", f"is {name}, which is not JSON"))
        return found

    try:
        value = json.loads(text, object_pairs_hook=object_of, parse_constant=constant)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        _refuse(f"the body is not JSON: {what} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _refuse("the body is nested too deeply")
    except ValueError:  # Python's limit of digits
        _refuse("the body contains a number of more than 4,300 digits")
    if faults:
        found: list[tuple[Path | str, str]] = [*_located(value, faults)] or [("", faults[0][2])]
        raise invalid_request(found[:MAX_VIOLATIONS], all_found=len(found) <= MAX_VIOLATIONS)
    if not isinstance(value, dict):
        _refuse(f"the body must be a JSON object, not {kind_of(value)}")
    return value


class _Constant:
    """Takes the place of NaN and Infinity."""


def _located(root: object, faults: list[tuple[object, str, str]]) -> Iterator[tuple[Path, str]]:
    """Find the paths of the faults. Those inside a value that a second key replaced have none."""
    wanted: dict[int, list[tuple[str, str]]] = {}
    for value, key, what in faults:
        wanted.setdefault(id(value), []).append((key, what))
    pending: list[tuple[Path, object]] = [(None, root)]
    while pending:
        path, value = pending.pop()
        for key, what in wanted.get(id(value), ()):
            yield (extended(path, key) if key else path), what
        if isinstance(value, dict):
            pending += [(extended(path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            pending += [((path, i), item) for i, item in reversed([*enumerate(value)])]


def _check_count(body: bytes) -> None:
    """Refuse a text of too many values before it takes memory. Counts separators outside of strings."""
    if count_separators(body) <= MAX_SEPARATORS:
        return
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') <= 4 * MAX_SEPARATORS:
        body = b"".join(body.split(b'"')[::2])
        if count_separators(body) <= MAX_SEPARATORS:
            return
    _refuse(f"the body has more than {MAX_SEPARATORS:,} commas, lists and objects")


def count_separators(body: bytes) -> int:
    """Count commas, lists and objects: one or two precede each value. Those in strings count too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _place(text: str) -> str:
    line = text.count("\n") + 1
    return f"line {line}, column {len(text) - text.rfind(chr(10))}"


def _refuse(detail: str) -> NoReturn:
    raise Problem(400, INVALID_REQUEST, detail)
