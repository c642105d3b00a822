"""The exit code of `tokenwire chat` and `tokenwire resume` shows how the answer ended."""

import asyncio
import re

import grpc
import pytest

from tokenwire.cli.exit_codes import code_of_end, code_of_error
from tokenwire.errors import BudgetExceeded, Overloaded, QuotaExhausted, RateLimited
from tokenwire.v1 import event_pb2
from tokenwire.v1.event_pb2 import Finished, FinishReason

from ..conftest import (
    LIMIT_S,
    STREAM_ID,
    event,
    fails,
    finished,
    plays,
    started,
    status,
    text,
    tool_call,
)

CODES = {
    "STOP": 0,
    "STOP_SEQUENCE": 0,
    "TOOL_CALLS": 0,
    "MAX_TOKENS": 3,
    "PAUSED": 3,
    "TIME_LIMIT": 3,
    "CANCELLED": 3,
    "CONTEXT_FULL": 3,
    "INVALID_TOOL_CALLS": 3,
    "OTHER": 3,
    "REFUSAL": 4,
    "CONTENT_FILTER": 5,
    "BUDGET": 6,
}


def test_each_finish_reason_has_its_exit_code():
    names = {name.removeprefix("FINISH_REASON_") for name in FinishReason.DESCRIPTOR.values_by_name}
    assert names == {*CODES, "UNSPECIFIED"}
    for name, code in CODES.items():
        reason = FinishReason.Value(f"FINISH_REASON_{name}")
        assert code_of_end(Finished(reason=reason)) == code, name


def test_the_reason_of_a_newer_server_is_not_a_complete_answer():
    assert code_of_end(Finished(reason=99)) == 3


def test_the_end_of_a_stream_that_was_already_read_is_a_success():
    assert code_of_end(None) == 0


def test_a_refusal_for_its_cost_differs_from_other_errors():
    spent = {"limit": "spend_microusd_per_day"}
    assert code_of_error(BudgetExceeded("too dear")) == 6
    assert code_of_error(QuotaExhausted("spent", metadata=spent)) == 6
    assert code_of_error(QuotaExhausted("long", metadata={"limit": "tokens_per_request"})) == 1
    assert code_of_error(RateLimited("often", metadata={"limit": "tokens_per_minute"})) == 1
    assert code_of_error(Overloaded("full")) == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
async def test_chat_and_resume_exit_with_the_code_of_the_end(server, command_line, more):
    script = plays(started(), text(2, "a"), finished(3, event_pb2.FINISH_REASON_CONTENT_FILTER))
    server.script, server.resume_scripts = script, [script]

    chat = await command_line.run("chat", "Hi", *more)
    resume = await command_line.run("resume", STREAM_ID, *more)

    assert (chat.code, resume.code) == (5, 5)
    assert "finished: content_filter\n" in chat.err


async def test_the_id_of_a_stream_is_on_stderr_in_every_form(server, command_line, tmp_path):
    server.script = plays(started(), text(2, "a"), finished(3))

    for more in ([], ["--json"], ["--resumable"], ["--resumable", "--json"]):
        done = await command_line.run("chat", "Hi", *more)
        assert done.err.splitlines().count(f"stream {STREAM_ID}") == 1, more


async def test_what_is_wrong_with_a_json_answer_is_listed_once(server, command_line, tmp_path):
    wrong = event_pb2.JsonViolation(pointer="/a", description="is not a string")
    refusal = status(grpc.StatusCode.FAILED_PRECONDITION, "INVALID_ANSWER", "does not follow it")
    server.script = fails(
        refusal,
        started(),
        text(2, '{"a": 1}'),
        event(3, json_result=event_pb2.JsonResult(violations=[wrong])),
    )
    schema = tmp_path / "schema.json"
    schema.write_text("{}")

    done = await command_line.run("chat", "Hi", "--json-schema", str(schema))

    assert (done.code, done.out) == (1, '{"a": 1}\n')
    assert done.err.splitlines() == [
        "tokenwire: INVALID_ANSWER: does not follow it",
        "  /a: is not a string",
        f"  stream {STREAM_ID}",
    ]


async def test_answer_and_report_in_one_pipe_are_on_lines_of_their_own(server, command_line):
    server.script = plays(
        started(),
        text(2, "Let me look"),
        tool_call(3, "look", "{}"),
        text(4, "Done", 1),
        finished(5),
    )

    process = await command_line.start("chat", "Hi", stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate()

    *lines, summary, stream = out.decode().splitlines()
    assert lines == ["Let me look", "tool call: look({})", "Done"]
    assert re.match(r"TTFT \d+ ms", summary)
    assert stream == f"stream {STREAM_ID}"
