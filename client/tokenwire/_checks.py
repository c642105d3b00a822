"""Types of arguments. protobuf and gRPC refuse wrong ones too, but do not name the argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import SupportsIndex, TypeVar

_T = TypeVar("_T")


def check_type(value: _T, kind: type, name: str) -> _T:
    """Return the value. Raise TypeError if it is of another type."""
    if not isinstance(value, kind):
        kind_name = "mapping" if kind is Mapping else kind.__name__
        expected = f"{'an' if kind_name[0] in 'AEIOUaeiou' else 'a'} {kind_name}"
        raise TypeError(f"{name}: must be {expected}, not {type(value).__name__}")
    return value


def check_list(values: Iterable[_T], name: str) -> Iterable[_T]:
    """Return the values. Raise TypeError for what is not a list, such as a text or a function."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: must be a list, not {type(values).__name__}")
    return values


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels. Raise TypeError if they are not a mapping with str keys and values."""
    return {
        check_type(key, str, "labels"): check_type(value, str, f"labels.{key}")
        for key, value in check_type(labels, Mapping, "labels").items()
    }


def check_int(value: int, name: str) -> int:
    """Return the value. Raise TypeError if it is not a whole number."""
    if not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: must be an int, not {type(value).__name__}")
    return value


def check_seconds(seconds: float | None, name: str) -> float | None:
    """Return the number of seconds. Raise TypeError if it is neither a number nor None."""
    if seconds is not None and not isinstance(seconds, Real):
        raise TypeError(
            f"{name}: must be a number of seconds or None, not {type(seconds).__name__}"
        )
    return seconds
