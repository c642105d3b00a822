"""Mappings whose fields must all be read: a field that was not read is an error with its path."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence


def as_mapping(value: object) -> Mapping[str, object] | None:
    """Return a mapping, or the content of an object with `model_dump()`. None: it is neither."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    if dump is None or isinstance(value, type):
        return None
    dumped = dump()
    return dumped if isinstance(dumped, Mapping) else None


class Fields:
    """The fields of one mapping. A field that is None is absent. `end()` refuses those that were not read."""

    def __init__(self, value: Mapping[str, object], path: str) -> None:
        self.path = path
        self._left = {name: each for name, each in value.items() if each is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def path_of(self, name: str) -> str:
        return f"{self.path}.{name}"

    def peek(self, name: str) -> object:
        """Return the value of a field without reading it. None: it is absent."""
        return self._left.get(name)

    def take(self, name: str) -> object:
        """Return the value of a field. None: it is absent."""
        return self._left.pop(name, None)

    def required(self, name: str) -> object:
        """Return the value of a field. Raises ValueError if it is absent."""
        value = self.take(name)
        if value is None:
            raise self.fault(name, "is required")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        """Return a text. Raises ValueError if it is absent and there is no default, TypeError for others."""
        value = self.required(name) if default is None else self.take(name)
        if value is None:
            return default or ""
        if not isinstance(value, str):
            raise TypeError(f"{self.path_of(name)}: must be a str, not {type(value).__name__}")
        return value

    def flag(self, name: str) -> bool | None:
        """Return a bool, or None if it is absent. Raises TypeError for others."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise TypeError(f"{self.path_of(name)}: must be a bool, not {type(value).__name__}")
        return value

    def choice(self, name: str, choices: Sequence[str], *, default: str | None = None) -> str:
        """Return a text that is one of the choices. Raises ValueError, TypeError for others."""
        value = self.text(name, default=default)
        if value not in choices:
            raise self.fault(name, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def only(self, name: str, value: object, reason: str) -> None:
        """Read a field that must be absent or have this value. Raises ValueError for other values."""
        given = self.take(name)
        if given is not None and given != value:
            raise self.fault(name, f"{given!r} cannot be sent: {reason}")

    def inner(self, name: str) -> Fields:
        """Return the fields of a required mapping."""
        return fields_of(self.required(name), self.path_of(name))

    def items(self, name: str) -> list[tuple[object, str]]:
        """Return the elements of a list and their paths. An absent list is empty."""
        value = self.take(name)
        if value is None:
            return []
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise TypeError(f"{self.path_of(name)}: must be a list, not {type(value).__name__}")
        return [(each, f"{self.path_of(name)}[{i}]") for i, each in enumerate(value)]

    def decoded(self, name: str) -> bytes:
        """Return the bytes of a required text in base64."""
        return decoded(self.text(name), self.path_of(name))

    def fault(self, name: str, what: str) -> ValueError:
        return ValueError(f"{self.path_of(name)}: {what}")

    def end(self, reasons: Mapping[str, str] | None = None) -> None:
        """Refuse the fields that were not read, except empty lists.

        Raises:
            ValueError: there is such a field. `reasons` has the error text for some fields.
        """
        for name, value in self._left.items():
            if value != []:
                raise self.fault(name, (reasons or {}).get(name, "is not a field that can be sent"))


def fields_of(value: object, path: str) -> Fields:
    """Return the fields of a mapping, or of an object with `model_dump()`. Raises TypeError for others."""
    mapping = as_mapping(value)
    if mapping is None:
        raise TypeError(f"{path}: must be a mapping, not {type(value).__name__}")
    return Fields(mapping, path)


def decoded(text: str, path: str) -> bytes:
    """Return the bytes of a text in base64. Raises ValueError for others."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{path}: is not base64") from None


def decoded_url(url: str, path: str) -> tuple[bytes, str]:
    """Return the bytes and the media type of a `data:` URL. Raises ValueError for others."""
    head, comma, body = url.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if not comma or encoding != "base64" or not media_type:
        raise ValueError(f"{path}: must begin with 'data:MEDIA_TYPE;base64,'")
    return decoded(body, path), media_type


def json_text(value: object, path: str) -> str:
    """Return a value as JSON without needless characters. Raises TypeError, ValueError for others."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: is not JSON: {error}") from None
