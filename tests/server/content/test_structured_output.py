import asyncio
import json
import os
from contextlib import suppress

import pytest
from hypothesis import given
from json_reference import at_pointer, completed_values
from transcripts_support import own_transcripts, recorded_transcripts

from event_strategies import answers
from tokenwire_server.content.structured.schema import MAX_QUICK_CHARS, compile_schema
from tokenwire_server.content.structured.stage import StructuredOutput
from tokenwire_server.errors import InvalidAnswer
from tokenwire_server.events import (
    FinishReason,
    JsonResult,
    JsonValue,
    JsonViolation,
    Notice,
    NoticeKind,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    TextPhase,
    ToolCallDelta,
)
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.routing.checker import Checker

COMMENTARY = TextPhase.COMMENTARY
VALID = JsonResult(is_valid=True)


def filled(deltas, schema=None):
    stage = StructuredOutput(schema and compile_schema(json.dumps(schema)))
    return [*stage.feed(deltas), *stage.finish()]


def test_values_follow_the_delta_that_completes_them_and_the_result_ends_the_answer():
    deltas = [TextDelta('{"a": [1', 0), TextDelta(', "x"], "b": tr', 0), TextDelta("ue}", 0)]

    assert filled(deltas) == [
        deltas[0],
        deltas[1],
        JsonValue(0, "/a/0", "1"),
        JsonValue(0, "/a/1", '"x"'),
        JsonValue(0, "/a", '[1, "x"]'),
        deltas[2],
        JsonValue(0, "/b", "true"),
        JsonValue(0, "", '{"a": [1, "x"], "b": true}'),
        VALID,
    ]


def test_a_number_that_is_the_whole_document_ends_with_the_answer():
    assert filled([TextDelta("4", 0), TextDelta("2", 0)])[2:] == [JsonValue(0, "", "42"), VALID]


def test_the_document_is_the_first_block_with_text_that_is_no_commentary():
    deltas = [
        ReasoningDelta("[1]", 0),
        TextInfo(1, COMMENTARY),
        TextDelta("[2]", 1),
        TextDelta(" \n", 2),
        ToolCallDelta(3, "[3]"),
        TextInfo(4, TextPhase.FINAL_ANSWER),
        TextDelta("[4", 4),
        Notice(NoticeKind.MODEL_CHANGED, "other"),
        TextDelta("more commentary", 1),
        TextDelta("]", 4),
        TextDelta(" ", 2),
    ]

    entries = filled(deltas)

    added = [entry for entry in entries if isinstance(entry, JsonValue | JsonResult)]
    assert added == [JsonValue(4, "/0", "4"), JsonValue(4, "", "[4]"), VALID]
    assert [entry for entry in entries if entry not in added] == deltas


def test_text_in_another_block_is_a_violation_once_and_its_values_are_not_read():
    entries = filled([TextDelta("[1]", 0), TextDelta("[2]", 1), TextDelta("[3]", 2)])

    assert [e.index for e in entries if isinstance(e, JsonValue)] == [0, 0]
    assert entries[-1] == JsonResult(False, (JsonViolation("", "there is also text in block 1"),))


def test_positions_count_the_whitespace_at_the_beginning_of_the_block():
    *_, result = filled([TextDelta(" \n", 0), TextDelta("  [x]", 0)])

    assert result.violations[0].description.startswith("invalid JSON at character 5:")


@pytest.mark.parametrize(
    "deltas", [[], [TextDelta(" ", 0)], [TextInfo(0, COMMENTARY), TextDelta("{}", 0)]]
)
def test_an_answer_without_a_document_is_invalid(deltas):
    assert filled(deltas)[len(deltas) :] == [
        JsonResult(False, (JsonViolation("", "the answer has no JSON"),))
    ]


def test_the_result_says_what_the_schema_forbids():
    *_, result = filled([TextDelta('{"a": "x"}', 0)], {"properties": {"a": {"type": "integer"}}})

    assert result == JsonResult(False, (JsonViolation("/a", 'the value is not of type "integer"'),))


LONG = json.dumps(["x" * MAX_QUICK_CHARS])
STRINGS, NUMBERS = '{"items": {"type": "string"}}', '{"items": {"type": "number"}}'


@pytest.mark.parametrize(("schema", "is_valid"), [(STRINGS, True), (NUMBERS, False)])
async def test_a_long_document_is_checked_in_a_process(schema, is_valid):
    stage = StructuredOutput(compile_schema(schema))
    stage.feed([TextDelta(LONG, 0)])
    await Checker(check_s=60).run("tenant", stage.check())
    *_, result = stage.finish()
    assert result.is_valid == is_valid
    assert all(violation.pointer == "/0" for violation in result.violations)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "it took more than 0.5 s"),
        ("raise ValueError('no')", "status 1: ValueError: no"),
        ("import os; os.kill(os.getpid(), 15)", "status -15"),
        ("print('no violations')", ""),
    ],
)
async def test_a_check_that_hangs_or_fails_leaves_the_answer_unchecked(
    program, says, tmp_path, monkeypatch, caplog
):
    (tmp_path / "failing_check.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stage = StructuredOutput(compile_schema(STRINGS), fails_if_invalid=True)
    stage.feed([TextDelta(LONG, 0)])
    check = stage.check()
    check.module = "failing_check"
    await Checker(check_s=0.5 if "sleep" in program else 60).run("tenant", check)
    assert stage.finish()[-1] == JsonResult(False, (), True)
    assert says in caplog.text
    assert stage.failure is None


async def test_the_process_of_a_check_ends_with_its_stream(tmp_path, monkeypatch):
    started = tmp_path / "pid"
    (tmp_path / "hanging_check.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid()));"
        "time.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stage = StructuredOutput(compile_schema(STRINGS))
    stage.feed([TextDelta(LONG, 0)])
    check = stage.check()
    check.module = "hanging_check"
    running = asyncio.create_task(Checker(check_s=60).run("tenant", check))
    while not (started.exists() and started.read_text()):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(10):
        while is_running(int(started.read_text())):
            await asyncio.sleep(0.01)


def is_running(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


class Waiting:
    """A check whose process ends when its file is there."""

    module = "waiting_check"

    def __init__(self, path):
        self._path = path
        self.output = "none yet"

    def input(self):
        return str(self._path).encode()

    def take(self, output):
        self.output = output


async def test_a_tenant_has_one_process_so_that_others_get_their_turn(tmp_path, monkeypatch):
    (tmp_path / "waiting_check.py").write_text(
        "import pathlib, sys, time\n"
        "path = pathlib.Path(sys.stdin.read())\n"
        "while not path.exists(): time.sleep(0.01)\n"
        "sys.stdout.write('done')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checker = Checker(check_s=60)
    greedy = [Waiting(tmp_path / "never") for _ in range(3)]
    running = [asyncio.create_task(checker.run("greedy", check)) for check in greedy]
    await asyncio.sleep(0)
    (tmp_path / "now").touch()
    other = Waiting(tmp_path / "now")
    await checker.run("other", other)
    assert other.output == b"done"
    (tmp_path / "never").touch()
    await asyncio.gather(*running)
    assert [check.output for check in greedy] == [b"done"] * 3


async def test_a_check_that_waits_too_long_for_its_turn_is_not_made(tmp_path, monkeypatch, caplog):
    (tmp_path / "waiting_check.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checker = Checker(wait_s=0.05, check_s=60)
    first, second = Waiting(tmp_path), Waiting(tmp_path)
    running = asyncio.create_task(checker.run("tenant", first))
    await asyncio.sleep(0)
    await checker.run("tenant", second)
    assert second.output is None
    assert "the checks before it took too long" in caplog.text
    running.cancel()
    await asyncio.wait([running])


def test_a_long_document_of_a_stream_that_ended_early_is_not_checked():
    stage = StructuredOutput(compile_schema(STRINGS))
    stage.feed([TextDelta(LONG, 0)])
    assert stage.finish()[-1] == JsonResult(False, (), True)


@pytest.mark.parametrize("text", ["[1]", LONG[:-1]])
def test_a_document_that_is_short_or_incomplete_needs_no_process(text):
    stage = StructuredOutput(compile_schema(STRINGS))
    stage.feed([TextDelta(text, 0)])
    assert stage.check() is None


@pytest.mark.parametrize(
    ("text", "reason", "is_error"),
    [
        ('["a"]', FinishReason.STOP, False),
        ("[1]", FinishReason.STOP, True),
        ("no JSON", FinishReason.STOP_SEQUENCE, True),
        ('["a', FinishReason.MAX_TOKENS, False),
        ("[1]", FinishReason.CANCELLED, False),
        ("", FinishReason.STOP, True),
    ],
)
def test_an_invalid_answer_is_an_error_only_if_the_model_completed_it(text, reason, is_error):
    stage = StructuredOutput(compile_schema(STRINGS), fails_if_invalid=True)
    stage.feed([TextDelta(text, 0)] if text else [])
    assert isinstance(stage.finish(Complete(reason))[-1], JsonResult)
    assert isinstance(stage.failure, InvalidAnswer) == is_error


@pytest.mark.parametrize(
    "reason", [FinishReason.TOOL_CALLS, FinishReason.REFUSAL, FinishReason.CANCELLED]
)
def test_an_answer_without_a_document_that_the_model_did_not_complete_has_no_result(reason):
    stage = StructuredOutput(compile_schema("{}"), fails_if_invalid=True)
    stage.feed([TextDelta("\n", 0)])
    assert stage.finish(Complete(reason)) == []
    assert stage.failure is None


def test_a_stream_that_fails_has_no_result():
    stage = StructuredOutput(compile_schema("{}"), fails_if_invalid=True)
    stage.feed([TextDelta("1", 0)])
    assert stage.finish(None) == [JsonValue(0, "", "1")]
    assert stage.failure is None


@given(answers())
def test_all_deltas_pass_unchanged_in_order(events):
    deltas = [each for each in events[1:-1] if not isinstance(each, JsonValue | JsonResult)]
    entries = filled(deltas)

    assert [e for e in entries if not isinstance(e, JsonValue | JsonResult)] == deltas
    assert isinstance(entries[-1], JsonResult)


def documents(transcripts):
    """Yield the JSON documents of transcripts, in the pieces that providers send.

    Few texts in transcripts are JSON. The arguments of tool calls are, in pieces of the same providers.
    """
    for transcript in transcripts:
        decoder = transcript.decoder()
        pieces = {}
        for delta in [*decoder.feed(transcript.body), *decoder.eof()]:
            if isinstance(delta, TextDelta):
                pieces.setdefault(delta.index, []).append(delta.text)
            elif isinstance(delta, ToolCallDelta):
                pieces.setdefault(delta.index, []).append(delta.arguments_json)
        for texts in pieces.values():
            with suppress(ValueError):
                json.dumps(json.loads("".join(texts)), allow_nan=False)
                yield texts


@pytest.mark.parametrize(
    ("transcripts", "least_count"), [(own_transcripts, 60), (recorded_transcripts, 1)]
)
def test_the_documents_of_transcripts_are_read_as_json_loads_reads_them(transcripts, least_count):
    count = 0
    for pieces in documents(transcripts()):
        count += 1
        whole = json.loads("".join(pieces))
        *entries, result = filled([TextDelta(piece, 0) for piece in pieces])

        values = [entry for entry in entries if isinstance(entry, JsonValue)]
        assert [value.pointer for value in values] == completed_values(whole)
        for value in values:
            assert json.loads(value.value_json) == at_pointer(whole, value.pointer)
        assert result == VALID
    if not count:
        pytest.skip("TOKENWIRE_TRANSCRIPTS names no folder with streams of real providers")
    assert count >= least_count
