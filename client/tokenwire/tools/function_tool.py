"""A Python function that a model can call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from tokenwire.v1.chat_pb2 import Tool

from .._checks import check_list
from ..messages import tool
from .arguments import Decode, arguments_of, decode_unchecked, unwrapped
from .docstring import parse_docstring

ToolFunction = Callable[..., object]
"""A function or a coroutine function that is a tool. See `function_tool`."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function, and its definition for a model. `function_tool` creates it.

    Calling the object calls the function.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments."""
    function: ToolFunction
    decode: Decode
    """A function that checks the JSON text of the arguments and returns them by name."""

    @property
    def definition(self) -> Tool:
        """The tool as a field of a request."""
        return tool(self.name, self.description, parameters=self.parameters)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        inner, _ = unwrapped(self.function)
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"FunctionTool({self.name}({', '.join(self.parameters.get('properties', ()))}))"


@overload
def function_tool(
    function: ToolFunction,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> FunctionTool: ...


@overload
def function_tool(
    function: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[ToolFunction], FunctionTool]: ...


def function_tool(
    function: ToolFunction | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> FunctionTool | Callable[[ToolFunction], FunctionTool]:
    """Return a function as a tool for `run_tools`. It can be used as a decorator, with or without arguments.

    By default, the tool has the function's name. Its description is the docstring up to the first section,
    such as `Args:`, which describes the parameters. The JSON Schema of the arguments is derived from the type
    hints, which can be any type that msgspec supports, such as `int`, `list[str]`, `Literal`, Enum,
    dataclass, TypedDict, Struct, and `Annotated[int, msgspec.Meta(ge=1)]`. A parameter with a default is
    optional. Arguments are converted and checked before the function is called.

    Args:
        function: A function or a coroutine function.
        name: Another name, of 1 to 64 characters of a-z A-Z 0-9 _ -.
        description: Another description.
        parameters: A JSON Schema in place of the derived one. Then the arguments are not checked, and the
            function gets plain JSON values.

    Raises:
        TypeError: the function cannot be a tool: it has `*args`, a parameter without a type hint, or a type
            that is not supported.
        ValueError: the name is not valid.
        ImportError: msgspec is missing: `pip install "tokenwire[structured]"`.
    """
    if function is None:
        return lambda each: function_tool(
            each, name=name, description=description, parameters=parameters
        )
    _check(function)
    if name is None:
        named = unwrapped(function)[0] if isinstance(function, partial) else function
        name = str(getattr(named, "__name__", ""))
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of a tool is 1 to 64 of a-z A-Z 0-9 _ -, not {name!r}")
    documentation = parse_docstring(unwrapped(function)[0].__doc__)
    if parameters is None:
        parameters, decode = arguments_of(function, name, documentation.parameters)
    else:
        decode = decode_unchecked
    if description is None:
        description = documentation.description
    return FunctionTool(name, description, parameters, function, decode)


def to_function_tools(tools: Iterable[FunctionTool | ToolFunction]) -> dict[str, FunctionTool]:
    """Return tools by name, from functions and function tools.

    Raises:
        TypeError: an element has no function to call, or cannot be a tool.
        ValueError: two tools have the same name.
    """
    found: dict[str, FunctionTool] = {}
    for each in check_list(tools, "tools"):
        if isinstance(each, Tool | Mapping):
            raise TypeError(
                "a tool of run_tools needs a function: "
                "function_tool(function, name=..., description=..., parameters=...)"
            )
        if not isinstance(each, FunctionTool):
            _check(each)
        made = each if isinstance(each, FunctionTool) else function_tool(each)
        if made.name in found:
            raise ValueError(f"two tools have the name {made.name!r}")
        found[made.name] = made
    return found


def _check(function: object) -> None:
    if not callable(function):
        raise TypeError(f"a tool is a function, not {type(function).__name__}")
    if isinstance(function, FunctionTool):
        raise TypeError(f"{function.name} is a tool already")
    if inspect.isclass(function):
        raise TypeError(f"a tool is a function, not the class {function.__name__}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("a tool returns its result: it cannot be a generator function")
