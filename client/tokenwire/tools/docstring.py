"""The parts of a docstring in Google style that describe a tool to a model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Attributes|Examples?|Keyword Args|Keyword Arguments|Notes?|Raises"
    r"|References|Returns?|See Also|Todo|Warnings?|Warns|Yields?):$"
)
_ARGUMENTS = ("Args", "Arguments", "Parameters", "Keyword Args", "Keyword Arguments")
_PARAMETER = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A description, and the descriptions of the parameters by name."""

    description: str
    parameters: Mapping[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Return the text before the first section, and the description of each parameter in `Args:`."""
    description: list[str] = []
    arguments: list[str] = []
    section = ""
    for line in inspect.cleandoc(text or "").splitlines():
        if match := _SECTION.match(line):
            section = match[1]
        elif section in _ARGUMENTS:
            arguments.append(line)
        elif not section:
            description.append(line)
    return Docstring("\n".join(description).strip(), _parameters(arguments))


def _parameters(lines: Iterable[str]) -> dict[str, str]:
    """Return the descriptions. A line with a deeper indentation continues the one before it."""
    found: dict[str, str] = {}
    name, first_indent = "", -1
    for line in lines:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if stripped and first_indent < 0:
            first_indent = indent
        if indent <= first_indent and (match := _PARAMETER.match(stripped)):
            name = match[1]
            found[name] = match[2]
        elif name and stripped:
            found[name] = f"{found[name]} {stripped}".strip()
    return found
