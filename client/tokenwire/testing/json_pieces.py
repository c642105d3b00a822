"""A JSON answer in pieces of text, with each value where it ends. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenwire.v1.event_pb2 import JsonValue


def json_pieces(value: Any, pointer: str = "") -> Iterator[str | JsonValue]:
    """Return the text in pieces. Each value follows its text, and members precede their container.

    Raises:
        TypeError, ValueError: the value is not JSON.
    """
    match value:
        case dict() if value:
            for number, (key, member) in enumerate(value.items()):
                if not isinstance(key, str):
                    raise TypeError(f"the keys of JSON are text, not {type(key).__name__}")
                yield f"{', ' if number else '{'}{_text(key)}: "
                yield from json_pieces(member, f"{pointer}/{_escaped(key)}")
            yield "}"
        case list() if value:
            for number, member in enumerate(value):
                yield ", " if number else "["
                yield from json_pieces(member, f"{pointer}/{number}")
            yield "]"
        case _:
            yield _text(value)
    yield JsonValue(pointer=pointer, value_json=_text(value))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
