import asyncio
import json
import os
import re
import signal
import socket
from importlib.metadata import entry_points

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

import tokenwire
from tokenwire.v1 import model_pb2
from tokenwire.v1.chat_pb2 import ROLE_SYSTEM, ROLE_USER
from tokenwire.v1.event_pb2 import (
    FINISH_REASON_MAX_TOKENS,
    NOTICE_KIND_FALLBACK,
    NOTICE_KIND_RETRYING,
    Notice,
    TokenEvent,
)

from ..conftest import (
    LIMIT_S,
    RUN,
    STREAM_ID,
    CommandLine,
    accept,
    caller_left,
    event,
    fails,
    finished,
    plays,
    plays_then_waits,
    reasoning,
    started,
    status,
    text,
    tool_call,
    unknown_event,
)

Code = grpc.StatusCode
ANSI = "\x1b["


async def test_on_a_pipe_stdout_has_only_the_text(server, command_line):
    server.script = plays(
        started(),
        reasoning(2, "thinking"),
        text(3, "Hel", 1),
        unknown_event(4),
        text(5, "lo \x1b[1m\n", 1),
        text(6, "you", 1),
        tool_call(7, "get_weather", '{"city":"Paris"}', 2),
        finished(8, FINISH_REASON_MAX_TOKENS, estimated=True),
    )

    done = await command_line.run("chat", "Hi")

    assert done.code == 3
    assert done.out == "Hello \x1b[1m\nyou\n"
    assert done.err.splitlines()[0] == 'tool call: get_weather({"city":"Paris"})'
    assert re.fullmatch(
        r"TTFT \d+ ms, [\d.]+ tokens/s, ~12 tokens in, ~34 out \(estimated\), finished: max_tokens",
        done.err.splitlines()[1],
    )
    assert ANSI not in done.err


async def test_on_a_pipe_each_piece_is_written_at_once(server, command_line):
    go_on = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(text(1, "first"))
        await go_on.wait()
        await context.write(finished(2))

    server.script = script
    process = await command_line.start("chat", "Hi")
    async with asyncio.timeout(LIMIT_S):
        assert await process.stdout.readexactly(5) == b"first"
        go_on.set()
        await process.communicate()
    assert process.returncode == 0


async def test_on_a_terminal_tokens_appear_live_and_reasoning_is_dimmed(
    server, command_line, terminal
):
    go_on = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(reasoning(1, "thinking"))
        await context.write(text(2, "  spaces kept\tand  tabs \n\n", 1))
        await go_on.wait()
        await context.write(text(3, "second", 1))
        await context.write(tool_call(4, "get_weather", '{"city":"Paris"}', 2))
        await context.write(finished(5))

    server.script = script
    process = await terminal.start(command_line, "chat", "Hi", "--plain")
    await terminal.shows("spaces")
    assert "second" not in terminal.shown
    go_on.set()

    assert await terminal.end_of(process) == 0
    assert re.search(r"\x1b\[2;3mthinking\x1b\[0m", terminal.shown)
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    assert plain.startswith(
        "thinking\n\n"
        "  spaces kept\tand  tabs \n\nsecond\n\n"
        'tool call: get_weather({"city":"Paris"})\n'
        "TTFT "
    )
    assert plain.endswith("12 tokens in, 34 out, finished: stop\nstream st_test\n")


async def test_a_model_cannot_control_the_terminal(server, command_line, terminal):
    server.script = plays(started(), text(2, "\x1b]0;owned\x07\x9b2J\x7f[bold]a\rb"), finished(3))

    process = await terminal.start(command_line, "chat", "Hi")

    assert await terminal.end_of(process) == 0
    assert "␛]0;owned␇\ufffd2J␡[bold]ab" in terminal.shown


async def test_ctrl_c_ends_the_call_and_reports_the_usage(server, command_line, terminal):
    server.script = plays_then_waits(started(), text(2, "12345678"), text(3, "9"))

    process = await terminal.start(command_line, "chat", "Hi", "--plain")
    await terminal.shows("9")
    process.send_signal(signal.SIGINT)

    assert await caller_left(server)
    assert await terminal.end_of(process) == 130
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    expected = r"123456789\ncancelled after 3 events, ~3 tokens, [\d.]+ m?s\nstream st_test\n"
    assert re.fullmatch(expected, plain), plain


async def test_ctrl_c_before_the_first_event_ends_the_call(server, command_line):
    called = asyncio.Event()

    async def silence(_request, _context):
        called.set()
        await asyncio.Event().wait()

    server.script = silence
    process = await command_line.start("chat", "Hi")
    async with asyncio.timeout(LIMIT_S):
        await called.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert await caller_left(server)
    assert (process.returncode, out) == (130, b"")
    assert err.startswith(b"cancelled after 0 events, ~0 tokens, ")


@pytest.mark.parametrize(
    "command", [["chat", "Hi"], ["chat", "Hi", "--json"], ["resume", STREAM_ID]]
)
@pytest.mark.parametrize("is_writing", [False, True])
async def test_ctrl_c_in_a_pipeline_is_reported_although_the_reader_of_stdout_has_left(
    server, command_line, command, is_writing
):
    """The terminal signals the whole pipeline: `tokenwire chat Hi | cat`."""
    reader_left = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(text(1, "first"))
        await reader_left.wait()
        if is_writing:
            await context.write(text(2, "second"))
        await asyncio.Event().wait()

    server.script = script
    server.resume_scripts = [script]
    reading, writing = os.pipe()
    process = await command_line.start(*command, stdout=writing)
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 5)
    os.close(reading)
    reader_left.set()
    process.send_signal(signal.SIGINT)

    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()
    assert process.returncode == 130
    report = "left after event " if command[0] == "resume" else "cancelled after "
    assert err.decode().startswith(report), err
    assert err.count(b"\n") == (1 if command[0] == "resume" else 2)


async def test_when_the_reader_of_stdout_leaves_the_call_ends_quietly(server, command_line):
    reader_left = asyncio.Event()

    async def script(_request, context):
        await accept(context)
        await context.write(text(1, "first"))
        await reader_left.wait()
        await context.write(text(2, "second"))
        await asyncio.Event().wait()

    server.script = script
    reading, writing = os.pipe()
    process = await command_line.start("chat", "Hi", stdout=writing)
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 5) == b"first"
    os.close(reading)
    reader_left.set()

    assert await caller_left(server)
    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")


async def test_a_full_disk_is_one_line(server, command_line):
    server.script = plays(started(), text(2, "a"), finished(3))

    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = await command_line.start("chat", "Hi", stdout=full)
        async with asyncio.timeout(LIMIT_S):
            _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode() == "tokenwire: cannot write the answer: No space left on device\n"


async def test_json_is_one_event_a_line_and_loses_nothing(server, command_line):
    events = [started(), text(2, "a\x9b\n\u00fc"), unknown_event(3), finished(2**53 + 1)]
    server.script = plays(*events)

    done = await command_line.run("chat", "Hi", "--json")

    lines = done.out.splitlines()
    read = [json_format.Parse(line, TokenEvent()) for line in lines]
    assert read[:2] == events[:2]
    assert read[2] == TokenEvent(sequence=3)
    assert read[3] == events[3]
    assert json.loads(lines[1]) == {"sequence": "2", "text": {"text": "a\x9b\nü"}}
    assert "\x9b" not in done.out


async def test_the_request_contains_the_options(server, command_line):
    server.script = plays(finished(1))
    command_line.environment["TOKENWIRE_MODEL"] = "anthropic/demo"

    await command_line.run("chat", "Hi")
    options = ["--system", "Be brief.", "--max-output-tokens", "5", "--temperature", "0"]
    await command_line.run("chat", "Hi", "--model", "x/y", *options)

    plain, full = server.requests
    assert plain.model == "anthropic/demo"
    assert full.model == "x/y"
    assert [message.role for message in full.messages] == [ROLE_SYSTEM, ROLE_USER]
    assert full.messages[0].parts[0].text == "Be brief."
    assert full.generation.max_output_tokens == 5
    assert full.generation.HasField("temperature")
    assert not plain.generation.HasField("temperature")


@pytest.mark.parametrize("arguments", [["chat", "-"], ["chat"]])
async def test_the_prompt_is_read_from_stdin(server, command_line, arguments):
    server.script = plays(finished(1))

    done = await command_line.run(*arguments, stdin="grüß\ndich\n".encode())

    assert done.code == 0
    assert server.requests[0].messages[0].parts[0].text == "grüß\ndich\n"
    assert server.requests[0].model == "openai/demo"


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["chat", "-"], b"\xff", "not UTF-8"),
        (["chat", "-"], b" \n", "the prompt is empty"),
        (["chat", "-"], b"x" * (8 * 1024 * 1024 + 1), "longer than 8388608 bytes"),
        (["chat", "Hi", "--timeout", "0"], None, "above 0"),
        (["chat", "Hi", "--timeout", "nan"], None, "above 0"),
        (["chat", "Hi", "--timeout", "1e10"], None, "at most 100000000"),
        (["chat", "Hi", "--max-output-tokens", str(2**63)], None, "is too large"),
        (
            ["chat", "Hi", "--max-output-tokens", "x"],
            None,
            "'x' is not a whole number of at least 1",
        ),
        (["chat", "Hi", "--model", ""], None, "--model: the model name is empty"),
        (["chat", "Hi", "--temperature", "hot"], None, "--temperature: 'hot' is not a number"),
        (["chat", "Hi", "--model", os.fsdecode(b"\xff")], None, "not UTF-8"),
        (["chta"], None, "no command 'chta'; did you mean chat?"),
        (["x"], None, "the commands are chat, count, resume"),
        (["chat", "Hi", "--modle", "x"], None, "no option --modle; did you mean --model"),
        ([], None, "COMMAND"),
    ],
)
async def test_wrong_usage_exits_with_2_and_names_the_mistake(command_line, arguments, stdin, says):
    done = await command_line.run(*arguments, stdin=stdin)

    assert (done.code, done.out) == (2, "")
    usage, *_, error = done.err.splitlines()
    command = " ".join(["tokenwire", *[word for word in arguments[:1] if word == "chat"]])
    assert usage.startswith(f"Usage: {command} [OPTIONS]")
    assert error.startswith(f"{command}: error: ")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [["chat"], ["chat", "--json"]])
async def test_a_missing_prompt_is_wrong_usage_if_the_output_is_not_for_people(
    command_line, terminal, arguments
):
    pipe = {} if "--json" not in arguments else {"stdout": terminal.slave}
    process = await command_line.start(*arguments, stdin=terminal.slave, **pipe)
    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()

    assert process.returncode == 2
    assert b"give a prompt" in err


async def test_an_error_is_one_line_and_each_violation_another(server, command_line):
    violations = [
        BadRequest.FieldViolation(field="model", description="is required"),
        BadRequest.FieldViolation(field="messages[0].parts", description="must not be\nempty"),
    ]
    invalid = BadRequest(field_violations=violations)
    server.script = fails(status(Code.INVALID_ARGUMENT, "INVALID_REQUEST", "bad", more=[invalid]))

    done = await command_line.run("chat", "Hi")

    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "tokenwire: INVALID_REQUEST: bad",
        "  model: is required",
        "  messages[0].parts: must not be empty",
    ]


async def test_a_violation_equal_to_the_message_is_printed_once(server, command_line):
    invalid = BadRequest(
        field_violations=[BadRequest.FieldViolation(field="model", description="is required")]
    )
    refusal = status(Code.INVALID_ARGUMENT, "INVALID_REQUEST", "model: is required", more=[invalid])
    server.script = fails(refusal)

    done = await command_line.run("chat", "Hi")

    assert done.err == "tokenwire: INVALID_REQUEST: model: is required\n"


async def test_an_error_after_the_first_token_keeps_the_text_and_reports_the_usage(
    server, command_line
):
    facts = {"last_sequence": "2", "input_tokens": "12", "output_tokens": "1"}
    retry = RetryInfo(retry_delay=Duration(seconds=2))
    server.script = fails(
        status(Code.ABORTED, "UPSTREAM_BROKEN", "\x1b[2Jbroke", metadata=facts, more=[retry]),
        started(),
        text(2, "half"),
    )

    done = await command_line.run("chat", "Hi")

    assert (done.code, done.out) == (1, "half\n")
    assert done.err.splitlines() == [
        "tokenwire: UPSTREAM_BROKEN: ␛[2Jbroke",
        "  used until then: 12 tokens in, 1 out",
        "  try again in 2.0 s",
        "  stream st_test",
    ]


async def test_an_error_of_a_stream_that_used_nothing_reports_no_usage(server, command_line):
    facts = {
        "stream_id": "st_test",
        "last_sequence": "1",
        "input_tokens": "0",
        "output_tokens": "0",
    }
    server.script = fails(
        status(Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", "down", metadata=facts), started()
    )

    done = await command_line.run("chat", "Hi")

    assert done.err.splitlines() == ["tokenwire: UPSTREAM_UNAVAILABLE: down", "  stream st_test"]


async def test_fallbacks_are_requested_in_their_order_and_reported_on_stderr(server, command_line):
    notices = (
        Notice(kind=NOTICE_KIND_RETRYING, attempt=2, delay=Duration(nanos=300_000_000)),
        Notice(kind=NOTICE_KIND_RETRYING, attempt=3),
        Notice(kind=NOTICE_KIND_FALLBACK, attempt=4, provider="anthropic", model="b"),
    )
    events = [event(number, notice=notice) for number, notice in enumerate(notices, 2)]
    server.script = plays(started(), *events, text(5, "a"), finished(6))

    done = await command_line.run("chat", "Hi", *("--fallback", "anthropic/b", "--fallback", "c"))

    assert (done.code, done.out) == (0, "a\n")
    assert done.err.splitlines()[:3] == [
        "the provider failed; attempt 2 follows in 0.3 s",
        "the provider failed; attempt 3 follows at once",
        "the provider failed; attempt 4 follows with anthropic/b",
    ]
    assert server.requests[0].fallback_models == ["anthropic/b", "c"]


async def test_the_timeout_is_a_deadline(server, command_line):
    server.script = plays_then_waits(started(), text(2, "a"))

    done = await command_line.run("chat", "Hi", "--timeout", "0.5")

    assert (done.code, done.out) == (1, "a\n")
    assert done.err.startswith("tokenwire: DEADLINE_EXCEEDED: ")
    assert done.err.splitlines()[1:] == ["  stream st_test"]
    assert await caller_left(server)


@pytest.mark.process
async def test_without_a_server_one_line_says_how_to_start_one():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        commands = CommandLine("nobody:1")

        done = await commands.run("chat", "Hi", "--target", target)

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"tokenwire: no server answers at {target}; start one with: tokenwire-server serve --demo\n"
    )


async def test_models_are_lines_for_programs_and_a_table_for_people(server, command_line, terminal):
    server.models = [
        model_pb2.Model(
            id="fast",
            provider="openai",
            provider_model="demo",
            capabilities=[model_pb2.MODEL_CAPABILITY_TOOLS, 99],
            context_window_tokens=128000,
            prices=model_pb2.ModelPrices(input_microusd=250_000, output_microusd=10_000_000),
            latency=model_pb2.ModelLatency(
                attempt_count=40,
                error_rate=0.025,
                ttft_p50=Duration(nanos=310_000_000),
                ttft_p95=Duration(seconds=2, nanos=460_000_000),
                output_tokens_per_second=48.25,
            ),
        ),
        model_pb2.Model(
            id="[b]odd\x1b", breaker_state=2, latency=model_pb2.ModelLatency(attempt_count=0)
        ),
    ]

    plain = await command_line.run("models")
    as_json = await command_line.run("models", "--json")
    process = await terminal.start(command_line, "models")

    assert plain.out.splitlines() == [
        "fast\topenai\tdemo\ttools,99\t128000\t\t$0.25\t$10.00\t310 ms\t2.5 s\t48.2\t2.5%\t40\t",
        "[b]odd\x1b" + "\t" * 13 + "half-open",
    ]
    assert json.loads(as_json.out.splitlines()[0])["providerModel"] == "demo"
    assert await terminal.end_of(process) == 0
    assert "PROVIDER" in terminal.shown
    assert "MAX OUTPUT" not in terminal.shown  # no model has one
    assert re.search(r"TTFT P50 +TTFT P95 +TOKENS/S +ERRORS +ATTEMPTS +STATE", terminal.shown)
    assert "[b]odd␛" in terminal.shown


@pytest.mark.parametrize("target", ["", "of-the-same-provider-with-a-name-of-its-own"])
async def test_at_80_columns_no_model_id_is_cut_or_wrapped(server, command_line, terminal, target):
    ids = [f"openai-responses/a-model-with-a-long-name-{n:030}" for n in range(3)]
    prices = model_pb2.ModelPrices(input_microusd=1_000_000, output_microusd=5_000_000)
    server.models = [
        model_pb2.Model(
            id=each,
            provider="openai-responses",
            provider_model=target or each.partition("/")[2],
            capabilities=[model_pb2.MODEL_CAPABILITY_TOOLS, model_pb2.MODEL_CAPABILITY_REASONING],
            prices=prices,
        )
        for each in ids
    ]

    process = await terminal.start(command_line, "models", columns=80)

    assert await terminal.end_of(process) == 0
    _, *rows = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown).splitlines()
    assert [row.split()[0] for row in rows] == ids
    assert all(row.split()[-3:] == ["tools,reasoning", "$1.00", "$5.00"] for row in rows)
    assert all((target in row.split()) == bool(target) for row in rows)


async def test_without_typer_one_line_says_what_to_install(command_line):
    without = f"import sys; sys.modules['typer'] = None; {RUN}"

    done = await command_line.run("chat", "Hi", code=without)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("tokenwire: the package typer is missing: ")
    assert 'pip install "tokenwire[cli]"' in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", [["chat", "Hi"], ["models"]])
async def test_without_stdout_the_error_is_one_line(command_line, command):
    closed = f"import sys; sys.stdout = None; {RUN}"

    done = await command_line.run(*command, code=closed)

    assert (done.code, done.out) == (1, "")
    assert done.err == "tokenwire: stdout is closed: there is nowhere to write the answer\n"


async def test_the_version_and_the_exit_codes_are_printed(command_line):
    version = await command_line.run("--version")
    usage = await command_line.run("--help")

    assert (version.code, version.out) == (0, f"tokenwire {tokenwire.__version__}\n")
    assert "130 interrupted" in usage.out
    (script,) = entry_points(group="console_scripts", name="tokenwire")
    assert script.value == "tokenwire.cli:main"


@pytest.mark.parametrize(
    ("words", "completed"),
    [("tokenwire ch", "chat"), ("tokenwire chat --max-c", "--max-cost")],
)
async def test_a_shell_can_complete_commands_and_options(command_line, words, completed):
    command_line.environment |= {
        "_TOKENWIRE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }

    done = await command_line.run()

    assert (done.code, done.out.split(), done.err) == (0, [completed], "")
