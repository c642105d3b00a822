"""A class as the format of a JSON answer: the schema that is sent, and the object that is returned."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_origin, is_typeddict

from ..errors import InvalidAnswer, Violation
from ..messages import json_format
from .schema import answer_schema

if TYPE_CHECKING:
    from tokenwire.v1.chat_pb2 import ResponseFormat

    from .._json import Json

T = TypeVar("T")

MAX_NAME_LENGTH = 64
"""Maximum number of characters in the name of a format."""

NEEDS_EXTRA = (
    "a dataclass, TypedDict or Struct as response_format requires msgspec, from the extra `structured`: "
    'pip install "tokenwire[structured]"'
)

_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")


class AnswerType(Generic[T]):
    """A dataclass, TypedDict, msgspec Struct or pydantic model as the format of an answer."""

    def __init__(self, name: str, schema: dict[str, Json], decode: Callable[[str], T]) -> None:
        self.name = name
        adapted = answer_schema(schema)
        self.response_format: ResponseFormat = json_format(
            re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:MAX_NAME_LENGTH],
            adapted.schema,
            strict=adapted.is_strict,
        )
        self._decode = decode

    def parse(self, text: str) -> T:
        """Return the object for the text of an answer.

        Raises:
            InvalidAnswer: the text is not JSON, or is not valid for the class.
        """
        return self._decode(text)


def answer_type_of(value: object) -> AnswerType[Any] | None:
    """Return the format for a class, or None for another value, such as a ResponseFormat.

    Raises:
        TypeError, ImportError: see `answer_type`.
    """
    is_class = isinstance(value, type) or isinstance(get_origin(value), type)
    return answer_type(cast("type[Any]", value)) if is_class else None


def answer_type(kind: type[T]) -> AnswerType[T]:
    """Return the format for a class. The last 256 are cached.

    Raises:
        TypeError: the class is not of a supported kind, or JSON cannot represent the type of a field.
        ImportError: the extra `structured` is not installed, and the class is not a pydantic model.
    """
    return cast("AnswerType[T]", _answer_type(cast("Hashable", kind)))


@lru_cache(maxsize=256)
def _answer_type(kind: Any) -> AnswerType[Any]:
    origin = get_origin(kind) or kind
    name = getattr(kind, "__name__", origin.__name__)
    try:
        if hasattr(origin, "__pydantic_fields__"):  # a model or a dataclass of pydantic
            schema, decode = _pydantic(kind)
        elif (
            is_typeddict(origin)
            or dataclasses.is_dataclass(origin)
            or hasattr(origin, "__struct_fields__")
        ):
            schema, decode = _msgspec(kind)
        else:
            raise TypeError(
                "give a dataclass, a TypedDict, a msgspec Struct, a pydantic model or json_format(...)"
            )
        return AnswerType(name, schema, decode)
    except (TypeError, NameError) as error:
        # The first lines of msgspec's message name its own options.
        reason = str(error).splitlines()[-1]
        raise TypeError(f"{name} cannot be a response_format: {reason}") from error


def _msgspec(kind: type[T]) -> tuple[dict[str, Json], Callable[[str], T]]:
    try:
        import msgspec
    except ImportError:
        raise ImportError(NEEDS_EXTRA, name="msgspec") from None
    decoder = msgspec.json.Decoder(kind)

    def decode(text: str) -> T:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError as error:
            message, _, path = str(error).partition(" - at `$")
            violation = Violation(_pointer(path.removesuffix("`")), message)
            raise _invalid(text, [violation], error) from error
        except RecursionError as error:
            raise _invalid(text, [Violation("", "it is nested too deep")], error) from error

    return msgspec.json.schema(kind), decode


def _pydantic(kind: type[T]) -> tuple[dict[str, Json], Callable[[str], T]]:
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[T] = TypeAdapter(kind)

    def decode(text: str) -> T:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            violations = [
                Violation("".join(f"/{_escaped(str(key))}" for key in each["loc"]), each["msg"])
                for each in details
            ]
            raise _invalid(text, violations, error) from error

    return cast("dict[str, Json]", adapter.json_schema()), decode


def _invalid(text: str, violations: list[Violation], cause: Exception) -> InvalidAnswer:
    first = violations[0] if violations else Violation("", str(cause))
    place = f" at {first.field}" if first.field else ""
    error = InvalidAnswer(f"the answer{place}: {first.description}", violations=violations)
    error.text = text
    return error


def _pointer(path: str) -> str:
    """Return a path of msgspec, such as `.steps[0].title`, as a JSON Pointer. `[...]` is any key.

    The pointer ends there, because msgspec does not report the key.
    """
    pointer = _INDEX.sub(r".\1", path.partition("[...]")[0])
    return "".join(f"/{_escaped(key)}" for key in pointer.split(".")[1:])


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
