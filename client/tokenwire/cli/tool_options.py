"""Tools that `tokenwire chat` offers to a model. Parsers of option values, see `values`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from .attachments import file_content
from .values import WrongUsage, text_value

ANY_ARGUMENTS = '{"type":"object"}'

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAMED_COMMAND = re.compile(r"([a-zA-Z0-9_-]{1,64})=(.+)", re.DOTALL)
_KEYS = frozenset({"name", "description", "parameters"})


class ToolOption(NamedTuple):
    """One `--tool`: the definition of a tool, the command that runs it, or both after merging."""

    name: str
    description: str = ""
    schema: str = ""
    """JSON Schema of the arguments. Empty: it was not given."""
    command: tuple[str, ...] = ()
    """The command and its first arguments. Empty: the tool cannot be run here."""


def tool_value(text: str) -> ToolOption:
    """Return a tool: NAME=COMMAND, or the definition in a JSON file."""
    if match := _NAMED_COMMAND.fullmatch(text_value(text)):
        name, command = match.groups()
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise ValueError(f"the command of {name!r} cannot be read: {error}") from None
        if not words:
            raise ValueError(f"the command of {name!r} is empty")
        return ToolOption(name, command=words)
    try:
        found = json.loads(file_content(text))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None
    return _definition(text, found)


def merged_tools(given: Iterable[ToolOption]) -> tuple[ToolOption, ...]:
    """Merge the definition and the command of each tool. Raises WrongUsage if either is given twice."""
    tools: dict[str, ToolOption] = {}
    for option in given:
        before = tools.get(option.name)
        if before is None:
            tools[option.name] = option
        elif bool(before.command) == bool(option.command):
            raise WrongUsage(f"--tool: {option.name!r} is given twice")
        else:
            definition, command = (before, option) if option.command else (option, before)
            tools[option.name] = definition._replace(command=command.command)
    return tuple(tools.values())


def _definition(path: str, found: object) -> ToolOption:
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(
            f"{path!r} is not a JSON object with a name of a-z A-Z 0-9 _ -"
        )  # of an option
    if unknown := sorted(found.keys() - _KEYS):
        raise ValueError(f"{path!r} has {unknown[0]!r}: a tool has {', '.join(sorted(_KEYS))}")
    description, parameters = found.get("description", ""), found.get("parameters", {})
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise ValueError(f"{path!r}: description must be a string, and parameters an object")  # noqa: TRY004
    schema = json.dumps(parameters, ensure_ascii=False) if parameters else ""
    return ToolOption(name, description, schema)
