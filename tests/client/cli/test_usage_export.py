"""`tokenwire usage` as CSV and JSON, for programs: complete and exact, for any number of records."""

import asyncio
import csv
import io
import json
import os
import signal

import pytest

from tokenwire.v1.usage_pb2 import Usage, UsageSummary

from ..conftest import LIMIT_S, Code, status


def ids(numbers):
    return [f"{number:032x}" for number in numbers]


def group(count, cost=None, **fields):
    usage = Usage(input_tokens=1000 * count, output_tokens=count)
    if cost is not None:
        usage.cost_microusd = cost
    return UsageSummary(record_count=count, usage=usage, **fields)


def csv_rows(out):
    return list(csv.DictReader(io.StringIO(out, newline=""), strict=True))


async def test_csv_has_every_record_exactly_once_while_new_ones_arrive(server, command_line):
    server.usage.hold(range(1, 3001))

    async def more(_page, _context):
        newest = max(server.usage.records)
        server.usage.hold(range(newest + 1, newest + 11))

    server.usage.before_page = more
    done = await command_line.run("usage", "--csv")

    assert (done.code, done.err) == (0, "")
    rows = csv_rows(done.out)
    assert [row["stream_id"] for row in rows] == ids(range(3010, 0, -1))
    assert sum(int(row["cost_microusd"]) for row in rows) == 3 * sum(range(1, 3011))
    assert "\r\n" in done.out
    assert "\n" not in done.out.replace("\r\n", "")


async def test_csv_is_utf_8_whatever_the_locale(server, command_line):
    server.usage.hold(range(1, 2), labels={"team": "grün"}, request_id="=1+1")
    command_line.environment["PYTHONIOENCODING"] = "latin-1"

    done = await command_line.run("usage", "--csv")

    (row,) = csv_rows(done.out)
    assert json.loads(row["labels"]) == {"team": "grün"}
    assert row["request_id"] == "'=1+1"


async def test_csv_of_groups_has_their_columns(server, command_line):
    server.usage.summaries = [group(2, 5, model="openai/demo", label_value="=x", unpriced_count=1)]

    done = await command_line.run("usage", "--csv", "--by", "model,label:team")

    (row,) = csv_rows(done.out)
    assert (row["model"], row["label.team"], row["record_count"]) == ("openai/demo", "'=x", "2")
    assert (row["cost_usd"], row["cost_microusd"], row["unpriced_count"]) == ("0.000005", "5", "1")
    assert "day" not in row


async def test_csv_cannot_control_the_terminal(server, command_line, terminal):
    server.usage.hold(range(1, 2), model_asked="\x1b]0;owned\x07", labels={"a": "\x9b2J"})

    process = await terminal.start(command_line, "usage", "--csv")

    assert await terminal.end_of(process) == 0
    assert "\x1b" not in terminal.shown
    assert "\x9b" not in terminal.shown
    assert "␛]0;owned␇" in terminal.shown


async def test_json_is_one_message_a_line_with_its_zeros(server, command_line):
    server.usage.hold(range(1, 3), labels={"team": "a\x9b\nb"})
    server.usage.summaries = [group(2, 5, day="2026-07-31")]

    records = await command_line.run("usage", "--json")
    groups = await command_line.run("usage", "--json", "--by", "day")

    newest, oldest = map(json.loads, records.out.splitlines())
    assert (newest["streamId"], oldest["streamId"]) == tuple(ids([2, 1]))
    assert newest["usage"] == {
        "inputTokens": "2",
        "outputTokens": "4",
        "costMicrousd": "6",
        "estimated": False,
        "serverToolCounts": {},
        "serviceTier": "",
    }
    assert newest["labels"] == {"team": "a\x9b\nb"}
    assert "\x9b" not in records.out
    assert json.loads(groups.out)["recordCount"] == "2"


async def test_an_error_in_the_middle_reports_how_many_records_were_written(server, command_line):
    server.usage.hold(range(1, 3001))

    async def third_fails(page, context):
        if page == 2:
            await context.abort_with_status(status(Code.UNAVAILABLE, "STORE_UNAVAILABLE"))

    server.usage.before_page = third_fails
    done = await command_line.run("usage", "--csv")

    assert done.code == 1
    assert [row["stream_id"] for row in csv_rows(done.out)] == ids(range(3000, 1000, -1))
    assert done.err.splitlines() == [
        "tokenwire: incomplete: 2000 records were written before this error:",
        "tokenwire: STORE_UNAVAILABLE: said by the server",
    ]


async def test_an_error_at_once_writes_nothing(server, command_line):
    async def fail(_page, context):
        await context.abort_with_status(status(Code.INVALID_ARGUMENT, "INVALID_REQUEST", "bad"))

    server.usage.before_page = fail
    done = await command_line.run("usage", "--csv")

    assert (done.code, done.out) == (1, "")
    assert done.err == "tokenwire: INVALID_REQUEST: bad\n"


@pytest.mark.parametrize("how", ["--csv", "--json", "--records"])
async def test_when_the_reader_of_stdout_leaves_the_export_ends_quietly(server, command_line, how):
    server.usage.hold(range(1, 20_001))
    reading, writing = os.pipe()

    process = await command_line.start("usage", how, stdout=writing)
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 5)
    os.close(reading)

    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    assert len(server.usage.pages) < 20


async def test_ctrl_c_ends_the_export_after_a_whole_line(server, command_line):
    server.usage.hold(range(1, 3001))
    waiting = asyncio.Event()

    async def second_hangs(page, _context):
        if page == 1:
            waiting.set()
            await asyncio.Event().wait()

    server.usage.before_page = second_hangs
    process = await command_line.start("usage", "--csv")
    async with asyncio.timeout(LIMIT_S):
        await waiting.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, err) == (130, b"")
    assert [row["stream_id"] for row in csv_rows(out.decode())] == ids(range(3000, 2000, -1))


async def test_memory_holds_one_page_for_any_number_of_records(server, command_line):
    measuring = (
        "import resource, sys; from tokenwire.cli import main; code = main(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )

    async def peak_kib(count, how):
        server.usage.records.clear()
        server.usage.hold(range(1, count + 1), labels={"team": "x" * 200})
        process = await command_line.start("usage", how, code=measuring)
        async with asyncio.timeout(6 * LIMIT_S):
            out, err = await process.communicate()
        assert process.returncode == 0
        assert out.count(b"\n") in (count, count + 1)
        return int(err)

    for how in ("--csv", "--json"):
        assert await peak_kib(20_000, how) < await peak_kib(2_000, how) + 6_000
