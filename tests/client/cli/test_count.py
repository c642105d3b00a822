"""`tokenwire count`, and `tokenwire chat` with a budget, labels and a confirmation."""

import asyncio
import fcntl
import json
import os
import re
import signal
import termios

import pytest

from tokenwire.v1.chat_pb2 import ROLE_SYSTEM, TOKEN_COUNTING_PROVIDER, CountTokensResponse
from tokenwire.v1.event_pb2 import FINISH_REASON_BUDGET

from ..conftest import LIMIT_S, RUN, Code, fails, finished, plays, started, status, text

PRICED = {"input_cost_microusd": 99, "max_output_tokens": 1024, "max_cost_microusd": 15_459}


def answers(**fields):
    fields = {"input_tokens": 33, "source": 2, "provider": "openai", "model": "gpt"} | fields

    async def script(_request, _context):
        return CountTokensResponse(**fields)

    return script


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (1, "33 tokens (exact: the provider counted this request)"),
        (2, "33 tokens (exact: counted with the model's own vocabulary)"),
        (3, "~33 tokens (an estimate)"),
        (99, "~33 tokens (counted by a method that is unknown here)"),
    ],
)
async def test_a_count_names_its_source_and_the_cost(server, command_line, source, says):
    server.count = answers(source=source, **PRICED)

    done = await command_line.run("count", "Hi")

    mark = "~" if says.startswith("~") else ""
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "model: openai/gpt",
        f"input: {says}",
        f"input cost: {mark}$0.000099",
        "output at most: 1024 tokens",
        f"cost at most: {mark}$0.015459",
    ]


async def test_an_unknown_cost_is_unknown_and_not_0(server, command_line):
    server.count = answers()

    done = await command_line.run("count", "Hi")
    as_json = await command_line.run("count", "Hi", "--json")

    assert done.out.splitlines()[2:] == [
        "input cost: unknown",
        "output at most: unknown",
        "cost at most: unknown",
    ]
    assert json.loads(as_json.out) == {
        "inputTokens": "33",
        "source": "TOKEN_COUNT_SOURCE_TOKENIZER",
        "exceedsBudget": False,
        "provider": "openai",
        "model": "gpt",
    }


async def test_count_prints_whether_the_budget_is_exceeded(server, command_line):
    server.count = answers(exceeds_budget=True, **PRICED)
    refused = await command_line.run("count", "Hi", "--max-cost", "0.00005", "--json")
    refused_words = await command_line.run("count", "Hi", "--max-cost", "0.00005")
    server.count = answers(**PRICED)
    taken = await command_line.run("count", "Hi", "--max-cost", "1")

    assert json.loads(refused.out)["exceedsBudget"] is True
    assert json.loads(refused.out)["maxCostMicrousd"] == "15459"
    assert refused_words.out.splitlines()[-1] == "budget: exceeded"
    assert taken.out.splitlines()[-1] == "budget: not exceeded"
    assert [request.budget.max_cost_microusd for request in server.counted] == [50, 50, 1_000_000]


async def test_count_and_chat_send_the_same_request(server, command_line):
    server.count = answers()
    server.script = plays(finished(1))
    words = ["-m", "x/y", "--system", "Be brief.", "--max-output-tokens", "5", "--max-cost", "1.5"]

    await command_line.run("count", "-", *words, "--ask-provider", stdin="grüß\n".encode())
    await command_line.run("chat", "-", *words, stdin="grüß\n".encode())

    (counted,), (sent,) = server.counted, server.requests
    assert counted.token_counting == TOKEN_COUNTING_PROVIDER
    counted.ClearField("token_counting")
    assert counted == sent
    assert sent.messages[0].role == ROLE_SYSTEM
    assert sent.messages[1].parts[0].text == "grüß\n"
    assert (sent.model, sent.generation.max_output_tokens) == ("x/y", 5)


async def test_an_older_server_is_named_as_the_cause(command_line):
    done = await command_line.run("count", "Hi")

    assert (done.code, done.out) == (1, "")
    assert "does not have this method" in done.err


async def test_budget_and_labels_are_sent_and_the_end_is_reported(server, command_line):
    server.script = plays(started(), text(2, "a"), finished(3, FINISH_REASON_BUDGET))

    done = await command_line.run(
        "chat", "Hi", "--max-cost", "0", "--label", "team=a=b", "--label", "env="
    )

    assert (done.code, done.out) == (6, "a\n")
    assert "finished: budget\n" in done.err
    (sent,) = server.requests
    assert sent.budget.HasField("max_cost_microusd")
    assert dict(sent.labels) == {"team": "a=b", "env": ""}


async def test_a_known_cost_is_reported(server, command_line):
    end = finished(2)
    end.finished.usage.cost_microusd = 99
    server.script = plays(started(), end)

    done = await command_line.run("chat", "Hi")

    assert "12 tokens in, 34 out, $0.000099, finished: stop" in done.err


async def test_a_refusal_by_the_budget_shows_the_cost_of_the_input(server, command_line):
    facts = {"limit": "max_cost_microusd", "allowed": "50", "estimated": "99"}
    server.script = fails(status(Code.FAILED_PRECONDITION, "BUDGET_EXCEEDED", metadata=facts))

    done = await command_line.run("chat", "Hi", "--max-cost", "0.00005")

    assert (done.code, done.out) == (6, "")
    assert done.err.splitlines() == [
        "tokenwire: BUDGET_EXCEEDED: said by the server",
        "  the input alone may cost $0.000099, the budget is $0.00005",
    ]


@pytest.mark.parametrize(
    ("known", "options", "asks"),
    [
        (PRICED, ["--confirm-over", "0.015459"], None),
        (PRICED, ["--confirm-over", "0.015458"], "this may cost up to $0.015459"),
        (PRICED, ["--confirm-over", "0.01", "--max-cost", "0.01"], None),
        (
            PRICED,
            ["--confirm-over", "0.01", "--max-cost", "0.010001"],
            "this may cost up to $0.010001",
        ),
        (PRICED, ["--confirm-over", "0.01", "--max-cost", "0.015459"], None),
        (
            {"input_cost_microusd": 99},
            ["--confirm-over", "0.01", "--max-cost", "0.05"],
            "this may cost up to $0.05",
        ),
        (PRICED | {"exceeds_budget": True}, ["--confirm-over", "0", "--max-cost", "0.00005"], None),
        ({"input_cost_microusd": 99}, ["--confirm-over", "0.000099"], None),
        (
            {"input_cost_microusd": 99},
            ["--confirm-over", "0"],
            "the input alone may cost $0.000099",
        ),
        ({}, ["--confirm-over", "1000"], "the price of openai/gpt is not known"),
        ({"max_output_tokens": 5}, ["--confirm-over", "1"], "the price of openai/gpt is not known"),
    ],
)
async def test_without_a_terminal_only_a_cheap_or_budgeted_request_is_sent(
    server, command_line, known, options, asks
):
    server.count = answers(**known)
    server.script = plays(started(), text(2, "a"), finished(3))

    done = await command_line.run("chat", "Hi", *options)

    if asks is None:
        assert (done.code, done.out, len(server.requests)) == (0, "a\n", 1)
        return
    assert (done.code, done.out, server.requests) == (1, "", [])
    assert done.err.startswith(f"tokenwire: {asks}, and there is no terminal to confirm it: ")
    assert done.err.count("\n") == 1
    amount = re.search(r"pass (--confirm-over) ([\d.]+) to accept", done.err)
    if amount is None:
        assert done.err.endswith(": leave out --confirm-over\n")
        return
    accepted = await command_line.run("chat", "Hi", *options, *amount.groups())
    assert (accepted.code, accepted.out, len(server.requests)) == (0, "a\n", 1)


@pytest.mark.parametrize(
    ("typed", "goes_on"),
    [
        (b"y\n", True),
        (b"YES\n", True),
        (b"n\n", False),
        (b"\n", False),
        (b"\xff\n", False),
        (b"\x04", False),
    ],
)
async def test_on_a_terminal_it_asks_and_only_a_yes_continues(
    server, command_line, terminal, typed, goes_on
):
    server.count = answers(**PRICED)
    server.script = plays(started(), text(2, "answer"), finished(3))

    process = await terminal.start(command_line, "chat", "Hi", "--confirm-over", "0")
    await terminal.shows("this may cost up to $0.015459: continue? [y/N] ")
    assert server.requests == []
    terminal.type(typed)

    assert await terminal.end_of(process) == (0 if goes_on else 1)
    assert len(server.requests) == goes_on
    assert ("answer" in terminal.shown) == goes_on
    assert terminal.shown.endswith("\ntokenwire: nothing was sent\n") != goes_on


async def test_ctrl_c_at_the_question_sends_nothing(server, command_line, terminal):
    server.count = answers(**PRICED)

    process = await terminal.start(command_line, "chat", "Hi", "--confirm-over", "0")
    await terminal.shows("[y/N] ")
    await asyncio.sleep(0.2)  # a signal that arrives just before it reads does not interrupt it
    process.send_signal(signal.SIGINT)

    assert await terminal.end_of(process) == 130
    assert server.requests == []
    assert "Traceback" not in terminal.shown


async def test_with_a_prompt_from_a_pipe_the_question_is_asked_on_the_terminal(
    server, command_line, terminal
):
    server.count = answers(**PRICED)
    server.script = plays(started(), text(2, "answer"), finished(3))

    def own_the_terminal():
        os.setsid()
        fcntl.ioctl(terminal.slave, termios.TIOCSCTTY, 0)

    process = await command_line.start(
        *("chat", "-", "--confirm-over", "0"),
        code=RUN,  # a command that is forked cannot own the terminal
        stdin=asyncio.subprocess.PIPE,
        preexec_fn=own_the_terminal,
        pass_fds=(terminal.slave,),
    )
    os.close(terminal.slave)
    process.stdin.write(b"Hi")
    process.stdin.close()
    await terminal.shows("[y/N] ")
    terminal.type(b"y\n")

    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"answer\n")
    assert server.requests[0].messages[0].parts[0].text == "Hi"


async def test_the_most_expensive_of_the_models_that_may_answer_is_confirmed(server, command_line):
    async def script(request, _context):
        costs = {"b": 500, "c": 900}
        return CountTokensResponse(input_cost_microusd=costs.get(request.model, 1))

    server.count = script
    chat = ("chat", "Hi", "--fallback", "b", "--fallback", "c", "--confirm-over", "0.0006")

    done = await command_line.run(*chat)

    assert (done.code, server.requests) == (1, [])
    assert done.err.startswith("tokenwire: the input alone may cost $0.0009, and ")


async def test_a_count_that_fails_is_one_line_and_nothing_is_sent(server, command_line):
    async def refuse(_request, context):
        message = "model: is required"
        await context.abort_with_status(status(Code.INVALID_ARGUMENT, "INVALID_REQUEST", message))

    server.count = refuse

    done = await command_line.run("chat", "Hi", "--confirm-over", "1")

    assert (done.code, done.out, server.requests) == (1, "", [])
    assert done.err == "tokenwire: INVALID_REQUEST: model: is required\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["count", "Hi", "--max-cost", "0.0000001"], "at most 6 decimals"),
        (["chat", "Hi", "--max-cost", "-1"], "--max-cost"),
        (["chat", "Hi", "--confirm-over", "$1"], "is not an amount in US dollars"),
        (["chat", "Hi", "--label", "team"], "is not KEY=VALUE"),
        (["chat", "Hi", "--label", "a=1", "--label", "a=2"], "the key 'a' is given twice"),
        (["count", " "], "the prompt is empty"),
        (["count", "Hi", "--label", "a=1"], "--label"),
    ],
)
async def test_wrong_usage_exits_with_2_and_names_the_mistake(command_line, arguments, says):
    done = await command_line.run(*arguments)

    assert (done.code, done.out) == (2, "")
    assert says in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith(f"tokenwire {arguments[0]}: error: ")
