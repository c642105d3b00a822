"""Find the first tested example of each public name of the Python client in docs/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FIRST_PAGE = DOCS / "quickstart.md"

_HEADING_OR_BLOCK = re.compile(
    r"^(?:#+ (?P<heading>[^\n]+)"
    r"|(?P<not_run><!-- not run: [^\n]+ -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```)$",
    re.MULTILINE | re.DOTALL,
)


class Example(NamedTuple):
    """The section of a page that has an example."""

    page: str
    title: str
    heading: str

    @property
    def link(self) -> str:
        """The link to the section from another page, in Markdown."""
        text = self.title if self.heading == self.title else f"{self.title}: {self.heading}"
        return f"[{text}]({self.page}#{_anchor(self.heading)})"


@cache
def examples() -> dict[str, Example]:
    """Return the first example of each name that a program on the pages uses: the quickstart comes first."""
    found: dict[str, Example] = {}
    pages = sorted(DOCS.glob("*.md"), key=lambda page: (page != FIRST_PAGE, page))
    for page in pages:
        for title, heading, program in _programs(page.read_text()):
            for name in names_in(program):
                found.setdefault(name, Example(page.name, title, heading))
    return found


def names_in(program: str) -> set[str]:
    """Return the names of the package `tokenwire` that a program uses."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(program)):
        match node:
            case ast.Attribute(value=ast.Name(id="tokenwire"), attr=name):
                names.add(name)
            case ast.ImportFrom(module="tokenwire", names=imported):
                names.update(each.name for each in imported)
    return names


def _programs(markdown: str) -> Iterator[tuple[str, str, str]]:
    """Yield the page's title, the heading and the text of each block of Python that the tests run."""
    title = heading = ""
    for match in _HEADING_OR_BLOCK.finditer(markdown):
        heading = match["heading"] or heading
        title = title or heading
        if match["language"] == "python" and not match["not_run"]:
            yield title, heading, match["text"]


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
