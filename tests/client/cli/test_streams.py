"""The command line and streams that outlive their reader."""

import asyncio
import json
import re
import signal

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

import tokenwire
from tokenwire.v1 import chat_pb2
from tokenwire.v1.usage_pb2 import Usage
from tokenwire_server.simulator.words import generated_text

from ..breakable_wire import wire_to
from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    Code,
    CommandLine,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)
from ..h2 import goes_away_and_closes, raw_server

USAGE = Usage(input_tokens=12, output_tokens=3)


async def test_resume_prints_the_rest_and_the_same_summary(real_server):
    command_line = CommandLine(real_server)
    words = generated_text(20)
    async with (
        tokenwire.AsyncClient(real_server) as client,
        client.chat_stream("openai/sim?tokens=20&itl_ms=2", "Hi") as stream,
    ):
        await stream.final()

    whole = await command_line.run("resume", stream.stream_id)
    rest = await command_line.run("resume", "--after", "11", stream.stream_id)
    nothing = await command_line.run("resume", "--after", "22", stream.stream_id)
    as_json = await command_line.run("resume", "--after", "21", "--json", stream.stream_id)

    assert (whole.code, whole.out) == (0, "".join(words) + "\n")
    assert re.fullmatch(
        r"TTFT \d+ ms, [\d.]+ tokens/s, \d+ tokens in, 20 out, finished: stop\n", whole.err
    )
    assert (rest.code, rest.out) == (0, "".join(words[10:]) + "\n")
    assert (nothing.code, nothing.out, nothing.err) == (
        0,
        "",
        "there are no more events: the stream ended there\n",
    )
    (line,) = as_json.out.splitlines()
    assert json.loads(line)["finished"]["reason"] == "FINISH_REASON_STOP"


async def test_cancel_prints_how_the_stream_ended(real_server):
    command_line = CommandLine(real_server)
    async with (
        tokenwire.AsyncClient(real_server) as client,
        client.chat_stream("openai/sim?repeat=forever&itl_ms=5", "Hi") as stream,
    ):
        await anext(stream.text)
        done = await command_line.run("cancel", stream.stream_id)
        again = await command_line.run("cancel", "--json", stream.stream_id)
        answer = await stream.final()

    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(
        r"finished: cancelled, ~\d+ tokens in, ~\d+ out \(estimated\)\n", done.out
    ), done.out
    assert json.loads(again.out)["finishReason"] == "FINISH_REASON_CANCELLED"
    assert answer.finish_reason is tokenwire.FinishReason.CANCELLED


@pytest.mark.parametrize("command", ["resume", "cancel"])
async def test_an_unknown_stream_is_one_line(command_line, server, command):
    server.resume_scripts = [fails(status(Code.NOT_FOUND, "STREAM_NOT_FOUND", "no such stream"))]

    done = await command_line.run(command, "nosuchstream")

    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"tokenwire: STREAM_NOT_FOUND: .*\n", done.err)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume"], "ID"),
        (["resume", " "], "id is empty"),
        (["resume", "st", "--after", "-1"], "is not a whole number of at least 0"),
        (["resume", "st", "--after", str(2**63)], "is too large"),
        (["cancel"], "ID"),
        (["cancel", "st", "--timeout", "0"], "above 0"),
    ],
)
async def test_wrong_usage_exits_with_2_and_names_the_mistake(command_line, arguments, says):
    done = await command_line.run(*arguments)

    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


async def test_with_resumable_a_broken_connection_is_not_noticed(real_server):
    async with asyncio.timeout(LIMIT_S), wire_to(real_server) as wire:
        wire.break_after([1500, 1500, 1500])  # of more than 5,000 bytes of text alone
        process = await CommandLine(wire.target).start(
            "chat", "Hi", "--resumable", "--model", "openai/sim?tokens=1000&itl_ms=2"
        )
        out, err = await process.communicate()

    assert wire.cuts == 3
    assert process.returncode == 0
    assert out.decode() == "".join(generated_text(1000)) + "\n"
    named, summary = err.decode().splitlines()
    assert re.fullmatch(r"stream [0-9a-f]{32}", named)
    assert summary.startswith("TTFT ")


async def test_a_wait_before_a_stream_is_resumed_is_shown_with_its_reason(server, command_line):
    overloaded = status(
        Code.UNAVAILABLE, "OVERLOADED", more=[RetryInfo(retry_delay=Duration(seconds=1))]
    )
    server.script = fails(status(Code.UNAVAILABLE, "DRAINING"), started(), text(2, "a"))
    server.resume_scripts = [fails(overloaded), plays(text(3, "b"), finished(4))]

    done = await command_line.run("chat", "Hi", "--resumable")

    assert (done.code, done.out) == (0, "ab\n")
    named, wait, _ = done.err.splitlines()
    assert named == f"stream {STREAM_ID}"
    assert (
        wait
        == f"the {named} will be resumed in 1.0 s, after event 2: OVERLOADED: said by the server"
    )


async def test_ctrl_c_cancels_a_resumable_stream_and_reports_its_usage(server, command_line):
    server.info = chat_pb2.StreamInfo(stream_id=STREAM_ID, usage=USAGE)
    server.script = plays_then_waits(started(), text(2, "a"))

    process = await command_line.start("chat", "Hi", "--resumable")
    async with asyncio.timeout(LIMIT_S):
        await process.stdout.readexactly(1)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert process.returncode == 130
    assert re.fullmatch(
        rb"stream st_test\ncancelled after 2 events, 12 tokens in, 3 out, [\d.]+ m?s\n", err
    )
    assert server.ended == [STREAM_ID] * 2  # by leaving, and to learn what was used
    assert server.requests[0].retention == tokenwire.retention("continue", linger_s=30)


async def test_ctrl_c_leaves_a_resumed_stream_running_and_prints_how_to_continue(
    server, command_line
):
    server.resume_scripts = [plays_then_waits(text(8, "a"))]

    process = await command_line.start("resume", STREAM_ID, "--after", "7")
    async with asyncio.timeout(LIMIT_S):
        await process.stdout.readexactly(1)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert process.returncode == 130
    line = f"left after event 8; continue with: tokenwire resume {STREAM_ID} --after 8\n"
    assert err.decode() == line
    assert server.ended == []


async def test_a_broken_connection_is_reported_without_grpcs_log_lines(command_line):
    """gRPC itself logs this end, on stderr, unless it is told not to before it is loaded."""
    async with raw_server(goes_away_and_closes) as (target, may_end):
        process = await command_line.start("chat", "Hi", "--target", target)
        async with asyncio.timeout(LIMIT_S):
            await process.stdout.readexactly(1)
            may_end.set()
            _, err = await process.communicate()

    assert process.returncode == 1
    lost, named = err.decode().splitlines()
    assert lost == f"tokenwire: the connection to {target} was lost after event 2"
    assert named.startswith("  stream ")


async def test_resume_after_a_sequence_prints_the_rest(server, command_line):
    server.resume_scripts = [plays(text(3, "b"), finished(4))]

    done = await command_line.run("resume", STREAM_ID, "--after", "2")

    assert (done.code, done.out) == (0, "b\n")
    assert server.resumes[0].after_sequence == 2
