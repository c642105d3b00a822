import os
import re
from datetime import UTC, datetime, timedelta

import pytest

from tokenwire.cli.usage.filters import OUTCOMES
from tokenwire.v1 import usage_pb2
from tokenwire.v1.usage_pb2 import Usage, UsageSummary

from ..conftest import CommandLine
from ..usage_server import record


def ids(numbers):
    return [f"{number:032x}" for number in numbers]


def group(count, cost=None, **fields):
    usage = Usage(input_tokens=1000 * count, output_tokens=count)
    if cost is not None:
        usage.cost_microusd = cost
    return UsageSummary(record_count=count, usage=usage, **fields)


def plain(shown):
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


async def test_by_default_it_prints_sums_by_day_of_the_last_30_days(server, command_line):
    server.usage.summaries = [group(2, 1_500_001, day="2026-07-30"), group(1, day="2026-07-31")]

    before = datetime.now(UTC)
    done = await command_line.run("usage")

    assert done.code == 0
    assert done.out.splitlines() == [
        "2026-07-30\t2\t2000\t2\t1.500001\t0",
        "2026-07-31\t1\t1000\t1\t\t0",
    ]
    (asked,) = server.usage.asked
    assert list(asked.group_by) == [usage_pb2.USAGE_GROUP_DAY]
    assert not asked.filter.HasField("end_time")
    since = asked.filter.start_time.ToDatetime(UTC)
    assert before <= since + timedelta(days=30) <= datetime.now(UTC)
    assert done.err == (
        f"since {since:%Y-%m-%d %H:%M} (UTC): 3 streams, 3,000 tokens in, 3 out, $1.500001\n"
    )


def test_the_option_accepts_every_outcome():
    names = [name for name, value in usage_pb2.UsageOutcome.items() if value]
    assert [f"USAGE_OUTCOME_{outcome.upper()}" for outcome in OUTCOMES] == names


async def test_every_filter_is_sent(server, command_line):
    await command_line.run(
        *("usage", "--since", "2026-07-01", "--until", "2026-08-01T02:00+02:00"),
        *("-m", "openai/demo", "--model", "fast", "--label", "team=search", "--label", "env=x=y"),
        *("--outcome", "finished", "--outcome", "lost", "--key", "tw_1"),
        *("--by", "key,label:team,model,day"),
    )

    (asked,) = server.usage.asked
    narrow = asked.filter
    assert narrow.start_time.ToDatetime(UTC) == datetime(2026, 7, 1, tzinfo=UTC)
    assert narrow.end_time.ToDatetime(UTC) == datetime(2026, 8, 1, tzinfo=UTC)
    assert list(narrow.models) == ["openai/demo", "fast"]
    assert dict(narrow.labels) == {"team": "search", "env": "x=y"}
    assert list(narrow.outcomes) == [2, 7]
    assert narrow.key_prefix == "tw_1"
    assert list(asked.group_by) == [1, 2, 3, 4]
    assert asked.label_key == "team"


async def test_without_since_the_period_is_the_30_days_before_until(server, command_line):
    await command_line.run("usage", "--until", "2020-03-31T12:00")

    start = server.usage.asked[0].filter.start_time.ToDatetime(UTC)
    assert start == datetime(2020, 3, 1, 12, tzinfo=UTC)


async def test_on_a_terminal_sums_are_a_table_with_bars_of_the_cost(server, command_line, terminal):
    server.usage.summaries = [
        group(1, 2_000_000, day="2026-07-29", label_value="a"),
        group(1200, 8_000_000, day="2026-07-30", label_value="[b]odd\x1b\n\t", estimated_count=3),
        group(7, day="2026-07-31", unpriced_count=7, open_count=1),
    ]
    server.usage.summaries[1].usage.estimated = True

    process = await terminal.start(command_line, "usage", "--by", "day,label:team", columns=80)

    assert await terminal.end_of(process) == 0
    lines = plain(terminal.shown).splitlines()
    assert max(map(len, lines[:4])) <= 80
    heading, first, second, third, total, *notes = lines
    assert heading.split() == ["DAY", "LABEL", "team", "STREAMS", "IN", "OUT", "COST", "BY", "COST"]
    assert first.split() == ["2026-07-29", "a", "1", "1,000", "1", "$2.00", first.split()[-1]]
    assert "[b]odd␛" in second
    assert "1,200 ~1,200,000 ~1,200 ~$8.00" in " ".join(second.split())
    assert third.split() == ["2026-07-31", "(none)", "7", "7,000", "7", "unknown"]
    assert second.count("█") > 3
    assert second.count("█") // 4 - 1 <= first.count("█") <= second.count("█") // 4
    assert "1,208 streams, 1,208,000 tokens in, 1,208 out, $10.00" in total
    assert [note.partition(" ")[0] for note in notes] == ["7", "3", "1"]


async def test_if_no_cost_is_known_the_bars_show_tokens(server, command_line, terminal):
    server.usage.summaries = [group(1, day="2026-07-30"), group(2, day="2026-07-31")]

    process = await terminal.start(command_line, "usage")

    assert await terminal.end_of(process) == 0
    lines = plain(terminal.shown).splitlines()
    assert lines[0].rstrip().endswith("BY TOKENS")
    assert 0 < lines[1].count("█") < lines[2].count("█")


@pytest.mark.parametrize("columns", [20, 45, 200])
async def test_no_cell_is_cut_whatever_the_terminals_width(server, command_line, terminal, columns):
    model = "openai/" + "x" * 30
    server.usage.summaries = [group(1, 10**12, day="2026-07-31", model=model)]

    process = await terminal.start(command_line, "usage", "--by", "day,model", columns=columns)

    assert await terminal.end_of(process) == 0
    lines = plain(terminal.shown).splitlines()
    assert lines[1].split()[:3] == ["2026-07-31", model, "1"]
    assert lines[2].startswith("since ")
    assert ("█" in terminal.shown) == (columns > 100)
    assert terminal.shown.count("█") <= 40


async def test_without_records_the_period_is_printed(server, command_line, terminal):
    groups = await command_line.run("usage", "--since", "2026-07-01")
    records = await command_line.run("usage", "--since", "2026-07-01", "--records")
    as_csv = await command_line.run("usage", "--csv")
    as_json = await command_line.run("usage", "--json")
    process = await terminal.start(command_line, "usage", "--since", "2026-07-01")

    none = "no streams since 2026-07-01 (UTC)\n"
    assert (groups.code, groups.out, groups.err) == (0, "", none)
    assert (records.code, records.out, records.err) == (0, "", none)
    assert as_csv.out.startswith("stream_id,tenant,")
    assert as_csv.out.count("\n") == 1
    assert (as_csv.err, as_json.out, as_json.err) == ("", "", "")
    assert await terminal.end_of(process) == 0
    assert plain(terminal.shown) == none


async def test_records_are_lines_newest_first_up_to_the_limit(server, command_line):
    server.usage.hold(range(1, 2501), reason="STOP")

    every = await command_line.run("usage", "--records")
    some = await command_line.run("usage", "--records", "--limit", "1001")

    assert every.code == 0
    assert [line.split("\t")[1] for line in every.out.splitlines()] == ids(range(2500, 0, -1))
    assert every.out.splitlines()[-1] == (
        f"2026-07-31T12:13:21.000000Z\t{1:032x}\topenai/demo\t1\t2\t0.000003\tfinished: stop"
    )
    assert some.out.splitlines() == every.out.splitlines()[:1001]
    assert [page.page_size for page in server.usage.pages] == [1000] * 5


async def test_a_small_limit_requests_a_small_page(server, command_line):
    server.usage.hold(range(1, 100))

    done = await command_line.run("usage", "--records", "--limit", "3")

    assert len(done.out.splitlines()) == 3
    assert [page.page_size for page in server.usage.pages] == [3]


async def test_records_on_a_terminal_are_aligned_in_columns(server, command_line, terminal):
    server.usage.hold(range(1, 151), reason="STOP")
    server.usage.records[150] = record(
        150,
        model_asked="odd\x1b[2J",
        outcome=usage_pb2.USAGE_OUTCOME_FAILED,
        reason="UPSTREAM_BROKEN",
    )
    server.usage.records[150].provider = ""
    server.usage.records[150].usage.estimated = True
    server.usage.records[150].usage.ClearField("cost_microusd")

    process = await terminal.start(command_line, "usage", "--records", columns=130)

    assert await terminal.end_of(process) == 0
    lines = plain(terminal.shown).splitlines()
    assert len(lines) == 151
    assert lines[0].split()[:3] == ["OPENED", "(UTC)", "MODEL"]
    newest = ["odd␛[2J", "~150", "~300", "unknown", "upstream_broken", f"{150:032x}"]
    assert lines[1].split()[2:] == newest
    assert lines[2].split()[2:] == ["openai/demo", "149", "298", "$0.000447", "stop", f"{149:032x}"]
    assert all(len(line) <= 130 for line in lines)


async def test_on_a_narrow_terminal_a_records_id_has_a_line_of_its_own(
    server, command_line, terminal
):
    usage = Usage(input_tokens=1_234_567, output_tokens=123_456, cost_microusd=12_345_678)
    server.usage.hold(range(1, 3), usage=usage, reason="MAX_TOKENS")

    process = await terminal.start(command_line, "usage", "--records", columns=80)

    assert await terminal.end_of(process) == 0
    lines = plain(terminal.shown).splitlines()
    assert lines[1] == "  STREAM"
    assert "1,234,567  123,456  $12.345678  max_tokens" in lines[2]
    assert lines[3::2] == [f"  {2:032x}", f"  {1:032x}"]
    assert all(len(line) <= 80 for line in lines)


async def test_on_a_narrow_terminal_no_model_of_a_record_is_wrapped(server, command_line, terminal):
    models = [f"openai-responses/a-model-with-a-long-name-{n:020}" for n in range(2)]
    for n, model in enumerate(models):
        each = record(n + 1, reason="STOP")
        each.provider, _, each.model = model.partition("/")
        server.usage.records[n + 1] = each

    process = await terminal.start(command_line, "usage", "--records", columns=80)

    assert await terminal.end_of(process) == 0
    _, _, *rows = plain(terminal.shown).splitlines()
    assert [row.split()[2] for row in rows[::2]] == models[::-1]


@pytest.mark.process
async def test_without_a_server_the_error_is_one_line():
    done = await CommandLine("127.0.0.1:1").run("usage")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("tokenwire: no server answers at 127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is not a span before now"),
        (["--until", "2026-13-01"], "a date (2026-07-31)"),
        (["--since", "1d", "--until", "2d"], "--until must be later than --since"),
        (["--until", "2026-07-31", "--since", "2026-07-31"], "--until must be later than --since"),
        (["--until", "0001-01-02"], "too long ago"),
        (["--label", "team"], "is not KEY=VALUE"),
        (["--label", "a=1", "--label", "a=1"], "--label: the key 'a' is given twice"),
        (["--outcome", "done"], "--outcome: 'done' is not one of open, finished"),
        (["--by", "tenant"], "--by: 'tenant' is not one of day, model, key, label:KEY"),
        (["--by", "label"], "'label' is not one of"),
        (["--by", "label:"], "'label:' is not one of"),
        (["--by", "day,day"], "day is given twice"),
        (["--by", "label:a,label:b"], "label is given twice"),
        (["--by", ""], "is not one of"),
        (["--csv", "--json"], "--csv contradicts --json"),
        (["--records", "--by", "day"], "--records contradicts --by"),
        (["--limit", "5"], "--limit is only for records"),
        (["--csv", "--by", "day", "--limit", "5"], "--limit is only for records"),
        (["--records", "--limit", "0"], "is not a whole number of at least 1"),
        (["--model", os.fsdecode(b"\xff")], "not UTF-8"),
        (["--timeout", "0"], "above 0"),
        (["extra"], "too many arguments; text with spaces needs quotes"),
    ],
)
async def test_wrong_usage_exits_with_2_and_names_the_mistake(command_line, arguments, says):
    done = await command_line.run("usage", *arguments)

    assert (done.code, done.out) == (2, "")
    assert says in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


async def test_the_help_describes_csv_and_times(command_line):
    done = await command_line.run("usage", "--help")

    assert "RFC 4180" in done.out
    assert "7d means the last 7 times 24 hours" in done.out
