"""What `tokenwire chat` prints of an answer besides its text, and what its options send."""

import asyncio
import re

import pytest

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

from ..conftest import LIMIT_S, event, finished, plays, started, text

CITATIONS = [
    event_pb2.Citation(url="https://example.com/a", title="Page \x1b[1m"),
    event_pb2.Citation(document_index=1, title="report.pdf"),
    event_pb2.Citation(url="https://example.com/a", title="Page \x1b[1m", start=4),
    event_pb2.Citation(cited_text="a sentence"),
]
SOURCES = ["[1] Page ␛[1m https://example.com/a", "[2] report.pdf document 2", "[3] a sentence"]
INVALID = event_pb2.InvalidToolCall(
    index=1, id="c", name="look", arguments_text="{a: 1}", problem="is not JSON"
)
REFUSED = event_pb2.Finished(
    reason=event_pb2.FINISH_REASON_REFUSAL,
    refusal=event_pb2.Refusal(category="cyber", explanation="No\nexploits."),
)


@pytest.fixture
def answer(server):
    server.script = plays(
        started(),
        event(2, text=event_pb2.TextDelta(phase=event_pb2.TEXT_PHASE_FINAL_ANSWER)),
        text(3, "Half"),
        event(4, notice=event_pb2.Notice(kind=event_pb2.NOTICE_KIND_MODEL_CHANGED, model="other")),
        event(5, notice=event_pb2.Notice(kind=99)),
        text(6, " done."),
        *(event(7 + n, citation=citation) for n, citation in enumerate(CITATIONS)),
        event(11, invalid_tool_call=INVALID),
        event(12, finished=REFUSED),
    )


async def test_on_a_pipe_all_but_the_text_is_on_stderr(answer, command_line):
    done = await command_line.run("chat", "Hi")

    assert (done.code, done.out) == (4, "Half done.\n")
    *lines, summary, _ = done.err.splitlines()
    assert lines == [
        "the answer continues with the model other",
        "invalid tool call: look({a: 1}): is not JSON",
        *SOURCES,
    ]
    assert summary.endswith("finished: refusal (cyber: No exploits.)")


async def test_on_a_terminal_sources_follow_the_text(answer, command_line, terminal):
    process = await terminal.start(command_line, "chat", "Hi", "--plain")

    assert await terminal.end_of(process) == 4
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    before, summary = plain.split("0 tokens in")
    assert before.rpartition("\n")[0].splitlines() == [
        "Half",
        "the answer continues with the model other",
        " done.",
        "",
        "invalid tool call: look({a: 1}): is not JSON",
        *SOURCES,
    ]
    assert "finished: refusal (cyber: No exploits.)\n" in summary


async def test_text_information_alone_prints_nothing(server, command_line):
    info = event_pb2.TextDelta(provider_state=b"p\0state")
    server.script = plays(started(), event(2, text=info), finished(3))

    done = await command_line.run("chat", "Hi")

    assert done.out == ""
    assert "the answer has no text" in done.err


async def test_options_of_chat_become_fields_of_the_request(server, command_line, tmp_path):
    png = b"\x89PNG\r\n\x1a\n"
    files = {
        "e.png": png,
        "a.pdf": b"%PDF-1.7",
        "b.txt": "é".encode(),
        "c.wav": b"RIFF\0\0\0\0WAVEfmt ",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    server.script = plays(started(), finished(2))
    documents = [str(tmp_path / "a.pdf"), str(tmp_path / "b.txt"), "https://example.com/d.pdf"]
    options = [word for source in documents for word in ("--document", source)]
    options += ["--image", str(tmp_path / "e.png"), "--image", "https://example.com/f.png"]
    options += ["--audio", str(tmp_path / "c.wav"), "--effort", "xhigh", "--service-tier", "flex"]

    done = await command_line.run("chat", "Hi", *options, "--logprobs", "0", "--json")

    assert done.code == 0, done.err
    (request,) = server.requests
    assert list(request.messages[0].parts) == [
        pb.Part(
            document=pb.Document(data=files["a.pdf"], media_type="application/pdf", title="a.pdf")
        ),
        pb.Part(document=pb.Document(data=files["b.txt"], media_type="text/plain", title="b.txt")),
        pb.Part(document=pb.Document(uri="https://example.com/d.pdf")),
        pb.Part(image=pb.Image(data=png, media_type="image/png")),
        pb.Part(image=pb.Image(uri="https://example.com/f.png")),
        pb.Part(audio=pb.Audio(data=files["c.wav"], media_type="audio/wav")),
        pb.Part(text="Hi"),
    ]
    assert request.generation == pb.GenerationConfig(
        reasoning=pb.ReasoningConfig(effort=pb.REASONING_EFFORT_XHIGH),
        service_tier="flex",
        logprobs=pb.LogprobsConfig(top_count=0),
    )


@pytest.fixture
def json_answer(server, tmp_path):
    """An answer that does not follow the schema, and the options that ask for it."""
    values = [("/title", '"A\\tplan"'), ("/steps/0", "1"), ("/steps", "[1]"), ("/tags", "[ ]")]
    server.script = plays(
        started(),
        text(2, '{"title": "A\\tplan", "steps": [1], '),
        *(
            event(3 + n, json_value=event_pb2.JsonValue(pointer=pointer, value_json=value))
            for n, (pointer, value) in enumerate(values)
        ),
        event(7, json_value=event_pb2.JsonValue(is_omitted=True)),
        text(8, '"tags": [ ]}'),
        event(9, json_result=event_pb2.JsonResult(violations=[WRONG])),
        finished(10),
    )
    schema = tmp_path / "plan.json"
    schema.write_text('{"type": "object"}')
    return "chat", "Hi", "--json-schema", str(schema)


WRONG = event_pb2.JsonViolation(pointer="/steps/0", description="the value is not a string")


async def test_a_pipe_gets_the_json_and_stderr_what_is_wrong_with_it(
    server, command_line, json_answer
):
    done = await command_line.run(*json_answer)

    assert done.out == '{"title": "A\\tplan", "steps": [1], "tags": [ ]}\n'
    assert done.err.splitlines()[0] == "not valid: /steps/0: the value is not a string"
    (request,) = server.requests
    assert request.response_format.json_schema == pb.JsonSchemaFormat(
        name="plan",
        schema_json='{"type":"object"}',
        stream_values=True,
        on_invalid=pb.ON_INVALID_FAIL,
    )


async def test_a_terminal_shows_each_value_as_it_comes(command_line, json_answer, terminal):
    process = await terminal.start(command_line, *json_answer)

    assert await terminal.end_of(process) == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    assert plain.splitlines()[:4] == [
        '/title  "A\\tplan"',
        "/steps/0  1",
        "/tags  [ ]",
        "not valid: /steps/0: the value is not a string",
    ]


@pytest.mark.parametrize("is_checked", [True, False])
async def test_a_terminal_shows_the_text_of_an_answer_without_values(
    server, command_line, json_answer, terminal, is_checked
):
    result = event(4, json_result=event_pb2.JsonResult(violations=[WRONG]))
    end = [result] if is_checked else []
    server.script = plays(
        started(), text(2, "It is"), text(3, " sunny.\tReally"), *end, event(5, finished=REFUSED)
    )

    process = await terminal.start(command_line, *json_answer)

    assert await terminal.end_of(process) == 4
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    lines = plain.splitlines()
    assert lines[0] == "It is sunny.\tReally"
    assert ("not valid: /steps/0: the value is not a string" in lines) == is_checked
    assert plain.count("sunny") == 1


async def test_a_terminal_shows_the_text_of_an_answer_whose_values_are_all_omitted(
    server, command_line, json_answer, terminal
):
    server.script = plays(
        started(),
        text(2, '{"a": "lo'),
        text(3, 'ng"}'),
        event(4, json_value=event_pb2.JsonValue(pointer="/a", is_omitted=True)),
        event(5, json_value=event_pb2.JsonValue(is_omitted=True)),
        event(6, json_result=event_pb2.JsonResult(is_valid=True)),
        finished(7),
    )

    process = await terminal.start(command_line, *json_answer)

    assert await terminal.end_of(process) == 0
    assert terminal.shown.splitlines()[0] == '{"a": "long"}'


async def test_log_probabilities_are_printed_only_as_json(server, command_line):
    done = await command_line.run("chat", "Hi", "--logprobs", "2")

    assert done.code == 2
    assert done.err.endswith("tokenwire chat: error: --logprobs requires --json\n")
    assert not server.requests


@pytest.mark.parametrize(
    ("piped", "sent"),
    [
        ("- ä\n+ ö\n".encode(), pb.Part(text="- ä\n+ ö\n")),
        (
            b"%PDF-1.7",
            pb.Part(document=pb.Document(data=b"%PDF-1.7", media_type="application/pdf")),
        ),
        (b"GIF89a", pb.Part(image=pb.Image(data=b"GIF89a", media_type="image/gif"))),
    ],
)
async def test_what_is_piped_is_sent_before_the_prompt(server, command_line, piped, sent):
    server.script = plays(started(), text(2, "Fine."), finished(3))

    done = await command_line.run("chat", "Review this", stdin=piped)

    assert (done.code, done.out) == (0, "Fine.\n")
    assert list(server.requests[0].messages[0].parts) == [sent, pb.Part(text="Review this")]


@pytest.mark.parametrize("nothing", [b"", b" \n"])
async def test_an_empty_pipe_is_not_sent(server, command_line, nothing):
    server.script = plays(started(), finished(2))

    await command_line.run("chat", "Hi", stdin=nothing)

    assert [part.text for part in server.requests[0].messages[0].parts] == ["Hi"]


async def test_a_file_on_stdin_is_sent_with_the_prompt(server, command_line, tmp_path):
    server.script = plays(started(), finished(2))
    notes = tmp_path / "notes"
    notes.write_text("Pears: 12")

    with notes.open() as stdin:
        process = await command_line.start("chat", "How many?", stdin=stdin)
        await process.communicate()

    assert [part.text for part in server.requests[0].messages[0].parts] == [
        "Pears: 12",
        "How many?",
    ]


async def test_piped_bytes_that_no_provider_reads_are_wrong_usage(command_line):
    done = await command_line.run("chat", "Hi", stdin=b"\0\xff")

    assert done.code == 2
    assert "standard input is not UTF-8 text, a PDF or an image" in done.err


async def test_a_pipe_that_stays_open_is_reported(server, command_line):
    server.script = plays(started(), finished(2))

    process = await command_line.start("chat", "Hi", stdin=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        line = await process.stderr.readline()
        await process.communicate(b"")

    assert line == (
        b"tokenwire: waiting for the end of standard input; with < /dev/null it is not read\n"
    )
    assert process.returncode == 0
