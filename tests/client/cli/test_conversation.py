"""`tokenwire chat` without a prompt, on a terminal."""

import asyncio
import json
import signal
import stat
from contextlib import suppress

import grpc
import pytest
from google.protobuf import json_format

from tokenwire.cli.conversation.prompts import PromptReader, Typed
from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, ChatRequest
from tokenwire.v1.event_pb2 import TextDelta

from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    caller_left,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

CTRL_D = b"\x04"
UNAVAILABLE = status(grpc.StatusCode.UNAVAILABLE, "OVERLOADED", "full")


@pytest.fixture
async def talk(command_line, terminal):
    process = await terminal.start(command_line, "chat", "--system", "Be brief.")
    await terminal.shows("Ctrl-D leaves")
    await terminal.prompts()
    yield process
    if process.returncode is None:
        await terminal.prompts()
        leaving = asyncio.create_task(terminal.end_of(process))
        while not leaving.done():  # a key is lost if it arrives before readline is ready
            terminal.type(CTRL_D)
            await asyncio.wait([leaving], timeout=0.5)
        assert leaving.result() == 0


def roles(request):
    return [message.role for message in request.messages]


async def test_a_conversation_keeps_the_messages_and_the_state_of_the_provider(
    server, terminal, talk
):
    state = event(3, text=TextDelta(provider_state=b"p\0state"))
    server.script = plays(started(), text(2, "I am Ada."), state, finished(4))
    terminal.type(b"Who are you?\n")
    await terminal.shows(f"stream {STREAM_ID}")
    server.script = plays(started(), text(2, "Second"), finished(3))
    terminal.type(b"And now?\n")
    await terminal.shows("Second")

    first, second = server.requests
    assert roles(first) == [ROLE_SYSTEM, ROLE_USER]
    assert roles(second) == [ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_USER]
    (answer,) = second.messages[2].parts
    assert (answer.text, answer.provider_state) == ("I am Ada.", b"p\0state")


async def test_ctrl_c_stops_the_answer_and_keeps_its_text(server, terminal, talk):
    server.script = plays_then_waits(started(), text(2, "half an answer"))
    terminal.type(b"Go\n")
    await terminal.shows("half an answer")
    talk.send_signal(signal.SIGINT)
    await terminal.shows("cancelled after 2 events")
    assert await caller_left(server)
    await terminal.shows("stays in the conversation\n")

    server.script = plays(started(), text(2, "Second"), finished(3))
    terminal.type(b"Go on\n")
    await terminal.shows("Second")

    assert [part.text for part in server.requests[1].messages[2].parts] == ["half an answer"]


async def test_a_second_ctrl_c_does_not_delay_the_report_to_the_next_prompt(server, terminal, talk):
    called = asyncio.Event()

    async def answer_slowly():
        called.set()
        await asyncio.sleep(0.3)

    server.on_cancel = answer_slowly
    server.script = plays_then_waits(started(), text(2, "half"))
    terminal.type(b"Go\n")
    await terminal.shows("half")
    talk.send_signal(signal.SIGINT)
    await called.wait()
    talk.send_signal(signal.SIGINT)
    await terminal.prompts()

    assert "cancelled after 2 events" in terminal.shown
    assert terminal.shown.count("stays in the conversation") == 1


async def test_a_text_that_is_pasted_is_one_prompt_and_one_entry_of_the_history(
    server, terminal, talk
):
    server.script = plays(started(), text(2, "Done"), finished(3))
    terminal.type(b"\x1b[200~one\ntwo\x1b[201~\n")
    await terminal.shows("Done")
    await terminal.prompts()
    terminal.type(b"\x1b[A\n")  # the arrow up
    await terminal.shows("Done")
    await terminal.prompts()

    async with asyncio.timeout(LIMIT_S):
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
    assert [request.messages[-1].parts[0].text for request in server.requests] == ["one\ntwo"] * 2


async def test_ctrl_c_discards_a_prompt_and_ctrl_d_leaves(server, terminal, talk):
    terminal.type(b"never sent")
    await terminal.shows("never sent")
    # Python delivers a signal that arrives while readline handles a key only with the next one.
    while not terminal.shown.endswith("> "):
        talk.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await terminal.prompts()
    terminal.type(CTRL_D)

    assert await terminal.end_of(talk) == 0
    assert not server.requests


async def test_after_an_error_the_conversation_is_as_before(server, terminal, talk):
    server.script = fails(UNAVAILABLE)
    terminal.type(b"Lost\n")
    await terminal.shows("tokenwire: OVERLOADED: full\n")
    server.script = plays(started(), finished(2))
    terminal.type(b"Empty\n")
    await terminal.shows("the prompt is not added")
    server.script = plays(started(), text(2, "Done"), finished(3))
    terminal.type(b"Again\n")
    await terminal.shows("Done")

    assert roles(server.requests[-1]) == [ROLE_SYSTEM, ROLE_USER]


async def test_commands_change_the_next_requests(server, terminal, talk):
    server.script = plays(started(), text(2, "Done"), finished(3))
    for line in (b"/model x/y", b"/system Be long.", b"/clear"):
        terminal.type(line + b"\n")
    await terminal.shows("started a new conversation")
    terminal.type(b"//etc/hosts is what?\n")
    await terminal.shows("Done")
    terminal.type(b"/system\n")
    await terminal.shows("there are no instructions")
    terminal.type(b"Next\n")
    await terminal.shows("Done")
    await terminal.prompts()

    first = server.requests[0]
    assert first.model == "x/y"
    assert [message.parts[0].text for message in first.messages] == [
        "Be long.",
        "/etc/hosts is what?",
    ]


async def test_an_unknown_command_is_named_and_not_sent(server, terminal, talk):
    terminal.type(b"/modle x\n")
    await terminal.shows("no command /modle; did you mean /model?")
    terminal.type(b"/frobnicate\n")
    await terminal.shows("no command /frobnicate; /help lists the commands")
    terminal.type(b"/help\n")
    await terminal.shows("/save FILE")
    terminal.type(b"/exit\n")

    assert await terminal.end_of(talk) == 0
    assert not server.requests


async def test_a_conversation_is_saved_as_text_or_json_and_replaces_no_other_file(
    server, terminal, talk, tmp_path
):
    server.script = plays(started(), text(2, "I am Ada."), finished(3))
    terminal.type(b"Who?\n")
    await terminal.shows(f"stream {STREAM_ID}")
    notes, request, other = (tmp_path / name for name in ("notes.md", "request.json", "other.md"))
    other.write_text("mine")
    for path in (notes, request, other, notes):
        terminal.type(f"/save {path}\n".encode())
    await terminal.shows(f"{other} already exists")
    terminal.type(f"/save {tmp_path}/none/a\n".encode())
    await terminal.shows("cannot be written: No such file")

    assert other.read_text() == "mine"
    assert notes.read_text().splitlines()[2:] == [
        *("## System", "", "Be brief.", "", "## User", "", "Who?", "", "## Model", "", "I am Ada.")
    ]
    saved = json_format.ParseDict(json.loads(request.read_text()), ChatRequest())
    assert roles(saved) == [ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT]


async def test_an_image_is_sent_with_the_first_prompt_only(
    server, command_line, terminal, tmp_path
):
    server.script = plays(started(), text(2, "A cat."), finished(3))
    picture = tmp_path / "cat"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    process = await terminal.start(command_line, "chat", "--image", str(picture))
    await terminal.prompts()
    terminal.type(b"What is it?\n")
    await terminal.shows(f"stream {STREAM_ID}")
    server.script = plays(started(), text(2, "Black."), finished(3))
    terminal.type(b"Which color?\n")
    await terminal.shows("Black.")
    await terminal.prompts()
    terminal.type(CTRL_D)

    assert await terminal.end_of(process) == 0
    kinds = [
        [part.WhichOneof("content") for part in message.parts]
        for message in server.requests[1].messages
    ]
    assert kinds == [["image", "text"], ["text"], ["text"]]


async def test_earlier_prompts_are_kept_in_a_private_file_on_request(
    server, command_line, terminal, tmp_path
):
    history = tmp_path / "history"
    command_line.environment["TOKENWIRE_HISTORY"] = str(history)
    server.script = plays(started(), text(2, "Done"), finished(3))
    process = await terminal.start(command_line, "chat")
    await terminal.prompts()
    terminal.type(b"Remember\n")
    await terminal.shows("Done")
    await terminal.prompts()
    terminal.type(CTRL_D)

    assert await terminal.end_of(process) == 0
    assert history.read_text() == "Remember\n"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("lines", "typed"),
    [
        (["a"], Typed("a")),
        (["a\\", "b\\", "c"], Typed("a\nb\nc")),
        (['"""', "a", "", "b", '"""'], Typed("a\n\nb")),
        (['"""a"""'], Typed("a")),
        (['"""/help', '"""'], Typed("/help")),
        (["/model x"], Typed("/model x", is_command=True)),
        (["//x"], Typed("/x")),
        (["/usr\\", "b"], Typed("/usr\nb")),
        ([], None),
        (["a\\"], Typed("")),
        (['"""a'], Typed("")),
    ],
)
def test_lines_become_prompts_and_commands(lines, typed):
    rest = iter(lines)

    def read_line(_prompt):
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    assert PromptReader(read_line).read() == typed
