"""Markdown on a terminal, as it is drawn while an answer arrives."""

import asyncio
import io
import re
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from examples import scaled
from tokenwire.cli.markdown import REFRESH_S, LiveMarkdown, split_last_block
from tokenwire.v1 import event_pb2

from ..conftest import (
    accept,
    event,
    finished,
    plays,
    plays_then_waits,
    reasoning,
    started,
    text,
    tool_call,
)

ANSWER = """\
# Pears

Pears are **good**, and `cheap`. See [the shop](https://example.com/pears).
Second line.

- one
- two

<div>kept</div>

```python
print("pears")
```

The end"""

SHOWN = """\
Pears

Pears are good, and cheap. See the shop (https://example.com/pears).
Second line.

 • one
 • two

<div>kept</div>

 print("pears")

The end
"""


def screen_of(shown, height=200):
    """Return the lines that a terminal of this height has at the end, scrolled ones included."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if piece == "\n":
            row, column = row + 1, 0  # a pseudo-terminal has translated it
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece.endswith("A") and piece.startswith("\x1b["):
            up = int(piece[2:-1] or 1)
            assert up < height, "the cursor cannot reach a line that has left the screen"
            row -= up
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith("\x1b"):
            lines[row] = (
                lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            )
            column += len(piece)
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def pieces(whole, size):
    return [whole[start : start + size] for start in range(0, len(whole), size)]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_terminal_shows_markdown_without_its_marks(server, command_line, terminal, size):
    async def script(_request, context):
        await accept(context)
        for number, piece in enumerate(pieces(ANSWER, size), 1):
            await context.write(text(number, piece))
            await asyncio.sleep(0.004)
        await context.write(finished(10_000))

    server.script = script
    process = await terminal.start(command_line, "chat", "Hi")

    assert await terminal.end_of(process) == 0
    answer, _, _ = screen_of(terminal.shown).partition("TTFT")
    assert answer == SHOWN


async def test_the_last_block_is_shown_before_it_is_complete(server, command_line, terminal):
    go_on = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(text(1, "Some **bold"))
        await go_on.wait()
        await context.write(text(2, "** words"))
        await context.write(finished(3))

    server.script = script
    process = await terminal.start(command_line, "chat", "Hi")
    await terminal.shows("Some **bold")
    go_on.set()

    assert await terminal.end_of(process) == 0
    assert screen_of(terminal.shown).splitlines()[0] == "Some bold words"


async def test_reasoning_notices_and_calls_are_between_the_blocks(server, command_line, terminal):
    notice = event_pb2.Notice(kind=event_pb2.NOTICE_KIND_MODEL_CHANGED, model="other")
    server.script = plays(
        started(),
        reasoning(2, "thinking *aloud*"),
        text(3, "*Half*", 1),
        event(4, notice=notice),
        text(5, " done", 1),
        tool_call(6, "look", "{}", 2),
        finished(7),
    )

    process = await terminal.start(command_line, "chat", "Hi")

    assert await terminal.end_of(process) == 0
    *lines, _, _ = screen_of(terminal.shown).splitlines()
    assert lines == [
        *("thinking *aloud*", "", "Half", "the answer continues with the model other"),
        *("done", "", "tool call: look({})"),
    ]


async def test_a_stopped_answer_keeps_what_was_shown(server, command_line, terminal):
    server.script = plays_then_waits(started(), text(2, "- one\n- *two"))

    process = await terminal.start(command_line, "chat", "Hi")
    await terminal.shows("*two")
    process.send_signal(signal.SIGINT)

    assert await terminal.end_of(process) == 130
    assert screen_of(terminal.shown).splitlines()[:2] == [" • one", " • *two"]


@pytest.mark.parametrize("how", ["--plain", "dumb", "piped"])
async def test_marks_stay_where_the_text_is_not_formatted(server, command_line, terminal, how):
    server.script = plays(started(), text(2, "# *Hi*"), finished(3))
    if how == "piped":
        done = await command_line.run("chat", "Hi")
        shown = done.out
    else:
        more = ["--plain"] if how == "--plain" else []
        process = await terminal.start(
            command_line, "chat", "Hi", *more, term="dumb" if not more else "xterm"
        )
        assert await terminal.end_of(process) == 0
        shown = terminal.shown

    assert shown.splitlines()[0] == "# *Hi*"


@given(
    st.lists(
        st.sampled_from([*"ab*_`#->|[]()<!\n\t 1.~=&\\", "```", "\n\n", "    ", "\u2028"]),
        max_size=60,
    )
)
@settings(max_examples=scaled(100))
def test_no_character_is_lost_between_two_blocks(pieces):
    whole = "".join(pieces)

    assert "".join(split_last_block(whole)) == whole


def test_a_block_that_is_longer_than_the_screen_shows_its_end():
    async def draw():
        console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
        markdown = LiveMarkdown(console)
        for number in range(30):
            markdown.add(f"- item {number}\n")
            await asyncio.sleep(REFRESH_S / 3)
        await asyncio.sleep(2 * REFRESH_S)
        live = screen_of(console.file.getvalue(), height=10)
        markdown.finish()
        return live, screen_of(console.file.getvalue(), height=10)

    live, end = asyncio.run(draw())

    assert live.splitlines() == [f" • item {number}" for number in range(22, 30)]
    assert end.splitlines() == [f" • item {number}" for number in range(30)]


def test_a_line_that_is_written_between_does_not_end_the_last_block():
    async def draw():
        console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
        markdown = LiveMarkdown(console)
        markdown.add("Before\n\n```\na = 1\n")
        await asyncio.sleep(2 * REFRESH_S)
        markdown.make_room()
        console.print("a note")
        await asyncio.sleep(2 * REFRESH_S)
        live = screen_of(console.file.getvalue())
        markdown.add("# comment\n```\n\nAfter")
        markdown.finish()
        return live, screen_of(console.file.getvalue())

    live, end = asyncio.run(draw())

    assert live.splitlines() == ["Before", "a note", "", " a = 1"]
    assert end.splitlines() == ["Before", "a note", "", " a = 1", " # comment", "", "After"]


def test_words_are_wrapped():
    async def draw():
        console = Console(file=io.StringIO(), force_terminal=True, width=20)
        markdown = LiveMarkdown(console)
        markdown.add("The quick brown fox jumps over the dog.")
        markdown.finish()
        return screen_of(console.file.getvalue())

    assert asyncio.run(draw()) == "The quick brown fox\njumps over the dog.\n"
