"""The pages of the documentation: the READMEs and docs/*.md, with their blocks of code and output.

What is in a block decides how it is tested:

- without a language: commands after `$`, each with the output that it must show below it. Commands of all
  pages run in one terminal, in the order of PAGES.
- `python`: a program, run by a command, if the text before it says "Save this as `NAME`:". Otherwise a
  fragment that uses `client`, an AsyncClient: it is run inside `async def main()`.
- `toml`: a configuration of the server, or on a page about the edge one of the edge. It must be accepted.
- `html` and `js`: pages and scripts for browsers. tests/edge/test_browser_docs.py runs them.
- `json`: an example, which must be JSON.
- `mermaid` and `text`: a drawing, which is not tested.
- `py`: an example in a docstring, on the page that is written from the docstrings. It is not run.

A comment before a block, `<!-- not run: REASON -->`, excludes it. test_docs.py has the list of those.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = (
    "README.md",
    "client/README.md",
    "server/README.md",
    "docs/quickstart.md",
    "docs/cli.md",
    "docs/conversations.md",
    "docs/replicas.md",
    "docs/concepts.md",
    "docs/structured-output.md",
    "docs/python-recipes.md",
    "docs/web-servers.md",
    "docs/tools.md",
    "docs/from-other-sdks.md",
    "docs/errors.md",
    "docs/python-errors.md",
    "docs/testing.md",
    "docs/python-reference.md",
    "docs/providers.md",
    "docs/costs-and-usage.md",
    "docs/grpcurl.md",
    "docs/edge.md",
    "docs/browser.md",
    "docs/websocket.md",
    "docs/keys-and-limits.md",
    "docs/filters.md",
    "docs/moderation.md",
    "docs/limits.md",
    "docs/configuration.md",
    "docs/simulator.md",
    "docs/operations.md",
    "docs/deployment.md",
    "docs/edge-operations.md",
    "docs/edge-configuration.md",
    "docs/performance.md",
    "docs/faults.md",
    "docs/architecture.md",
)
"""In this order their commands run. The demo server of README.md runs until docs/grpcurl.md stops it."""

TEXTS = (*PAGES, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""All texts, also those without commands."""

DRAWINGS = ("mermaid", "text")

EXCERPTS = ("py",)

BROWSER_LANGUAGES = ("html", "js")

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why_not>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_SAVED_AS = re.compile(r"Save this as `([\w.]+)`:\s*\Z")
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    saved_as: str | None
    """The file that the reader is asked to save it as."""
    why_not: str | None
    """Why it is not run, if it is marked so."""

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    def commands(self):
        """Yield each command and the output below it."""
        yield from _COMMAND.findall(self.text)


def text_of(page):
    return (ROOT / page).read_text()


def blocks_of(page):
    text = text_of(page)
    for match in _BLOCK.finditer(text):
        saved_as = _SAVED_AS.search(text[: match.start()])
        yield Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            saved_as and saved_as[1],
            match["why_not"],
        )


def all_blocks():
    return [block for page in PAGES for block in blocks_of(page)]
