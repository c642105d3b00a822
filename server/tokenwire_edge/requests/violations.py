"""The violations of a request, with the paths of the fields, as the server writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..problems import Problem

INVALID_REQUEST = "INVALID_REQUEST"
MAX_VIOLATIONS = 100
"""Violations that one answer lists. Checking stops there."""
_MAX_PATH_CHARS = 256
_MAX_KEY_CHARS = 80
_MAX_VALUE_CHARS = 64

Path = tuple[Any, "str | int"] | None
"""Path of a value: the path of its parent, and its name or position there. None is the path of the whole
value. A path becomes text only in a violation."""


def extended(path: Path, key: str) -> Path:
    """Return the path of a member whose key the caller chose."""
    return path, cleaned(key)


def rendered(path: Path) -> str:
    """Return a path as text, such as `messages[0].parts[2].image.media_type`."""
    segments: list[str] = []
    while path is not None:
        path, segment = path
        segments.append(f"[{segment}]" if isinstance(segment, int) else f".{segment}")
    text = "".join(reversed(segments)).removeprefix(".")
    return text if len(text) <= _MAX_PATH_CHARS else f"{text[:_MAX_PATH_CHARS]}..."


def invalid_request(found: Sequence[tuple[Path | str, str]], *, all_found: bool = True) -> Problem:
    """Return the error that lists violations. Its detail names the first one, as the server's does."""
    violations = [
        (path if isinstance(path, str) else rendered(path), what)
        for path, what in found[:MAX_VIOLATIONS]
    ]
    field, what = violations[0]
    others = len(found) - 1
    at_least = "" if all_found else "at least "
    more = f" (and {at_least}{others} more)" if others else ""
    where = f"{field}: " if field else "the request "
    return Problem(400, INVALID_REQUEST, f"{where}{what}{more}", violations=violations)


def kind_of(value: object) -> str:
    """Return the kind of a JSON value, such as "a string", for a description."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def shown(value: object) -> str:
    """Return a caller's number or string as JSON, shortened for a description."""
    if isinstance(value, str):
        return json.dumps(cleaned(value, _MAX_VALUE_CHARS), ensure_ascii=False)
    try:
        text = str(value)
    except ValueError:  # Python's limit of digits
        return "a number of very many digits"
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def cleaned(text: str, max_chars: int = _MAX_KEY_CHARS) -> str:
    """Return a caller's text in a form that is valid UTF-8 and not too long."""
    if len(text) > max_chars:
        text = f"{text[:max_chars]}..."
    return text.encode(errors="backslashreplace").decode()
