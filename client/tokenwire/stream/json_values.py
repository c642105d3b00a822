"""The values of a JSON answer, put together as they arrive. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple, Self

from tokenwire.v1.event_pb2 import JsonValue

from .._json import Json

MAX_DEPTH = 64
"""Deepest value that is put together. Servers send no deeper ones."""
MAX_ELEMENTS = 128 * 1024
"""Most elements of an array. Servers send at most so many values."""


class _PointerAndValue(NamedTuple):
    pointer: str
    """Where the value is, as a JSON Pointer (RFC 6901), such as "/steps/0/title". Empty: the whole answer."""
    value: Json
    """The value. A large object or array, which the server does not repeat, is put together from its
    members. None if `is_omitted`."""


class FieldValue(_PointerAndValue):
    """A complete value of a JSON answer. As a tuple it is its pointer and its value."""

    is_omitted: bool = False
    """True if the value is omitted, because it is too long for the server or for Python. Then `value` is
    `None`. The stream's `result` has the value."""

    def __new__(cls, pointer: str, value: Json, is_omitted: bool = False) -> Self:
        field = super().__new__(cls, pointer, value)
        field.is_omitted = is_omitted
        return field


class PartialJson:
    """A JSON answer that fills in: each value is added as soon as it is complete.

    Until an array or an object is complete, its kind is derived from its members: one whose first member is
    "0" counts as an array, until it gets a member that no array has. Values before the cursor of
    `AsyncClient.resume` are missing. In an array, elements that are missing or omitted are None.
    """

    def __init__(self) -> None:
        self.last = FieldValue("", None, is_omitted=True)
        """The value that was added last."""
        self._root: dict[str, Json] = {}  # the answer is the member ""
        self._open: list[str] = []
        """The keys on the way to the innermost object or array that is not complete."""

    @property
    def value(self) -> Json:
        """The answer as far as it is complete. None: nothing yet. It changes with the next value: copy it."""
        return self._root.get("")

    def add(self, event: JsonValue) -> None:
        """Add the next value. A value that Python cannot parse, such as a very long number, is omitted.

        Raises:
            ValueError: a server does not send such an event. Only `last` is changed.
        """
        self.last = FieldValue(event.pointer, None, is_omitted=True)
        keys = _keys(event.pointer)
        is_read, value = _read(event)
        has_members = self._open[: len(keys)] == keys
        container: Json = self._root
        for depth, (key, following) in enumerate(pairwise(keys), 1):
            is_open = self._open[:depth] == keys[:depth]
            container = _descend(container, key, following, is_open=is_open)
        self._open = keys[:-1]
        if is_read:
            _put(container, keys[-1], value)
        elif not has_members:
            _leave_out(container, keys[-1])
        if is_read or has_members:
            self.last = FieldValue(event.pointer, _get(container, keys[-1]))

    def complete(self, text: str) -> None:
        """Set the answer from its whole text, which includes omitted values. No effect if it is not JSON."""
        with suppress(ValueError, RecursionError):
            self._root = {"": json.loads(text, parse_constant=_refuse_constant)}

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


def _read(event: JsonValue) -> tuple[bool, Json]:
    """Return whether the event has a value that Python can read, and the value."""
    if event.is_omitted:
        return False, None
    try:
        return True, json.loads(event.value_json)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # Python reads integers of 4,300 digits at most
        return False, None


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _descend(container: Json, key: str, following: str, *, is_open: bool) -> Json:
    """Return the object or the array in a container, which gets the member `following`.

    It is a new one unless it `is_open`: one that is complete belongs to an earlier member of the same name.
    """
    inner = _get(container, key)
    if not is_open or not isinstance(inner, list | dict):
        inner = [] if following == "0" else {}
    elif isinstance(inner, list) and not _is_index(following):  # it was an object all along
        inner = {str(index): member for index, member in enumerate(inner)}
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


def _leave_out(container: Json, key: str) -> None:
    if isinstance(container, dict):
        container.pop(key, None)
    else:
        _put(container, key, None)


def _is_index(key: str) -> bool:
    if not (key.isascii() and key.isdecimal()) or len(key) > len(str(MAX_ELEMENTS)):
        return False
    return str(int(key)) == key and int(key) < MAX_ELEMENTS
