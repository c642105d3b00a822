"""The values of a JSON answer, put together as they arrive. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import NamedTuple

from tokenwire.v1.event_pb2 import JsonValue

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value of JSON, as Python's `json` reads it."""

MAX_DEPTH = 64
"""Deepest value that is put together. Servers send no deeper ones."""
MAX_INDEX_DIGITS = 7
"""Digits of the last index of an array. An answer has at most 2 Mi characters."""


class FieldValue(NamedTuple):
    """A complete value of a JSON answer."""

    pointer: str
    """Where the value is, as a JSON Pointer (RFC 6901), such as "/steps/0/title". Empty: the whole answer."""
    value: Json
    """The value. A large object or array, which the server does not repeat, is put together from its
    members."""


class PartialJson:
    """A JSON answer that fills in: each value is added as soon as it is complete.

    Until an array or an object is complete, its kind is taken from its members: one whose first member is "0"
    counts as an array, until it gets a member that no array has. What came before a resume by hand is
    missing; missing elements of an array are None.
    """

    def __init__(self) -> None:
        self._root: dict[str, Json] = {}  # the answer is the member ""

    @property
    def value(self) -> Json:
        """The answer as far as it is complete. None: no value is. It changes with the next value: copy it."""
        return self._root.get("")

    def add(self, event: JsonValue) -> None:
        """Add the next value.

        Raises:
            ValueError: the event is not one that a server sends.
        """
        keys = _keys(event.pointer)
        container: Json = self._root
        for key, following in pairwise(keys):
            container = _descend(container, key, following)
        if not event.is_omitted:
            _put(container, keys[-1], json.loads(event.value_json))

    def get(self, pointer: str) -> Json:
        """Return the value at a pointer, or None if there is none."""
        value: Json = self._root
        for key in _keys(pointer):
            value = _get(value, key)
        return value


def _keys(pointer: str) -> list[str]:
    """Return the keys on the way to a value, beginning with that of the whole answer."""
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"not a JSON Pointer: {pointer!r}")
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")]
    if len(keys) > MAX_DEPTH + 1:
        raise ValueError(f"a JSON value is nested more than {MAX_DEPTH} deep")
    return keys


def _descend(container: Json, key: str, following: str) -> Json:
    """Return the object or the array in a container, which gets the member `following`."""
    inner = _get(container, key)
    if isinstance(inner, list) and not _is_index(following):  # it was an object all along
        inner = {str(index): member for index, member in enumerate(inner)}
    elif not isinstance(inner, list | dict):
        inner = [] if following == "0" else {}
    _put(container, key, inner)
    return inner


def _get(container: Json, key: str) -> Json:
    if isinstance(container, dict):
        return container.get(key)
    if isinstance(container, list) and _is_index(key) and int(key) < len(container):
        return container[int(key)]
    return None


def _put(container: Json, key: str, value: Json) -> None:
    if isinstance(container, dict):
        container[key] = value
    elif isinstance(container, list):
        index = int(key)
        container.extend([None] * (index + 1 - len(container)))
        container[index] = value


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= MAX_INDEX_DIGITS
