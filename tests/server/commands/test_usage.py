"""`tokenwire-server usage` in this process: every cell of every form, page after page."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
from msgspec import structs

from tokenwire.cli.usage.filters import OUTCOMES, UsageFilters
from tokenwire_server.commands import usage as usage_module
from tokenwire_server.commands.usage import SummaryRefused, UsageForm, print_usage
from tokenwire_server.events import Usage
from tokenwire_server.ledger import store as store_module
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database
from usage_records import OPEN, WHOLE

FAILED_ATTEMPTS = [
    {"provider": "openai", "model": "gpt-5", "reason": "UPSTREAM_UNAVAILABLE", "duration_s": 0.25},
    {
        "provider": "local",
        "model": "llama",
        "reason": "UPSTREAM_BROKEN",
        "duration_s": 1.5,
        "input_tokens": 70,
        "output_tokens": 60,
        "cost_microusd": 20_000_001,
    },
]
FILTER_ACTIONS = [
    {"name": "emails", "action": "redact", "count": 3},
    {"name": "keys", "action": "block", "count": 1},
]
PRINTED = {
    "created_time": "2027-01-15T12:00:00.250Z",
    "end_time": "2027-01-15T12:00:04.000Z",
    "stream_id": f"{1:032x}",
    "tenant": "acme",
    "key_prefix": "tw_0123456789ab",
    "request_id": "invoice-7",
    "labels": {"team": "search"},
    "model_asked": "fast",
    "provider": "local",
    "model": "llama",
    "provider_response_id": "answer-9",
    "outcome": "failed",
    "reason": "UPSTREAM_BROKEN",
    "ttft_s": 0.5,
    "duration_s": 3.75,
    "input_tokens": 70,
    "cache_read_tokens": 40,
    "cache_write_tokens": 30,
    "long_cache_write_tokens": 20,
    "output_tokens": 60,
    "reasoning_tokens": 50,
    "server_tool_counts": {"file_search": 1, "web_search": 2},
    "service_tier": "priority",
    "cost_usd": "20.000001",
    "estimated": True,
    "partial": True,
    "attempts": 2,
    "failed_attempts": FAILED_ATTEMPTS,
    "from_cache": False,
    "own_key": True,
    "filters": FILTER_ACTIONS,
    "instance_id": "host:1:ab",
}
UNKNOWN = ("end_time", "ttft_s", "duration_s", "cost_usd", "reasoning_tokens",
           "cache_read_tokens", "cache_write_tokens", "long_cache_write_tokens")  # fmt: skip
FILTERS = UsageFilters(since=datetime(2020, 1, 1, tzinfo=UTC))


@pytest.fixture
async def printed(tmp_path, capsys):
    """Writes records to a database, and returns what the command prints of all that are there."""
    async with Database(f"sqlite:///{tmp_path}/t.db") as database:
        await database.prepare(migrate=True)

        async def run(*records, by=("tenant",), **form):
            await UsageStore(database).write(records)
            await print_usage(database, None, FILTERS, UsageForm(group_by=tuple(by), **form))
            return capsys.readouterr()

        yield run


def rows_of(done):
    return list(csv.DictReader(io.StringIO(done.out, newline=""), strict=True))


def copies(count, **fields):
    return [structs.replace(WHOLE, stream_id=f"{n:032x}", **fields) for n in range(1, count + 1)]


def test_the_option_accepts_every_outcome():
    assert set(OUTCOMES) == set(Outcome)


async def test_each_field_of_a_record_is_printed_under_its_own_name(printed):
    done = await printed(WHOLE, records=True, json=True)
    assert json.loads(done.out) == PRINTED
    (row,) = rows_of(await printed(records=True, csv=True))
    words = {
        "labels": '{"team": "search"}',
        "estimated": "true",
        "from_cache": "false",
        "own_key": "true",
    }
    words |= {"server_tool_counts": '{"file_search": 1, "web_search": 2}'}
    words |= {"failed_attempts": json.dumps(FAILED_ATTEMPTS)}
    words |= {"filters": json.dumps(FILTER_ACTIONS)}
    as_text = {name: str(value) for name, value in PRINTED.items()}
    assert row == as_text | words | {"partial": "true"}


async def test_an_unknown_value_of_a_record_is_null_or_empty_or_a_dash(printed):
    values = json.loads((await printed(OPEN, records=True, json=True)).out)
    assert [name for name, value in values.items() if value is None] == sorted(
        UNKNOWN, key=list(values).index
    )
    assert (values["estimated"], values["partial"], values["from_cache"]) == (True, False, True)
    (row,) = rows_of(await printed(records=True, csv=True))
    assert {row[name] for name in UNKNOWN} == {""}
    assert (await printed(records=True)).out.split()[-1] == "-"


@pytest.mark.parametrize("count", [3, 4])
async def test_every_page_is_printed_once_and_only_the_first_has_headings(
    printed, monkeypatch, count
):
    monkeypatch.setattr(usage_module, "PAGE_SIZE", 2)
    newest_first = [f"{n:032x}" for n in range(count, 0, -1)]
    rows = rows_of(await printed(*copies(count), records=True, csv=True))
    assert [row["stream_id"] for row in rows] == newest_first
    lines = (await printed(records=True, json=True)).out.splitlines()
    assert [json.loads(line)["stream_id"] for line in lines] == newest_first
    head, *table = (await printed(records=True)).out.splitlines()
    assert head.startswith("CREATED_TIME")
    assert [line.split()[1] for line in table] == newest_first


async def test_a_limit_ends_the_records_in_the_middle_of_a_page(printed, monkeypatch):
    monkeypatch.setattr(usage_module, "PAGE_SIZE", 2)
    for limit in (1, 2, 3, 4, 9):
        rows = rows_of(await printed(*copies(5), records=True, csv=True, limit=limit))
        newest_first = [f"{n:032x}" for n in range(5, 0, -1)]
        assert [row["stream_id"] for row in rows] == newest_first[:limit]


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
async def test_a_text_that_begins_like_a_formula_is_preceded_by_an_apostrophe(printed, first):
    said = f'{first}cmd,"1"'
    fields = {"model_asked": said, "request_id": said, "labels": {"team": said}}
    record = structs.replace(WHOLE, model=said, provider_response_id=said, **fields)
    (row,) = rows_of(await printed(record, records=True, csv=True))
    for name in ("model_asked", "request_id", "model", "provider_response_id"):
        assert row[name] == f"'{said}", name
    assert row["labels"][0] == "{"
    (group,) = rows_of(await printed(by=["label:team"], csv=True))
    assert group["label.team"] == f"'{said}"


async def test_control_characters_in_names_and_labels_are_made_visible(printed):
    named = "x\x1b[2J\r\n\x7f\x9by"
    record = structs.replace(WHOLE, model=named, labels={"team": named})
    for arguments in ({"records": True}, {"by": ["label:team"]}):
        head, line = (await printed(record, **arguments)).out.removesuffix("\n").split("\n")
        assert "x\u241b[2J  \u2421\ufffdy" in line
        assert head.isprintable()
        assert line.isprintable()


async def test_each_field_of_a_sum_is_printed_under_its_own_name_and_notes_say_what_is_not_exact(
    printed,
):
    by = ["label:team", "key", "model", "day", "tenant"]
    counted_here = [structs.replace(r, usage=Usage(1, 1, estimated=True)) for r in copies(3)[1:]]
    unpriced = [structs.replace(WHOLE, stream_id=f"{n:032x}", usage=Usage(1, 1)) for n in (4, 5)]
    unpriced[1] = structs.replace(unpriced[1], outcome=Outcome.OPEN)
    values = {
        "label.team": "search",
        "key_prefix": "tw_0123456789ab",
        "model": "local/llama",
        "day": "2027-01-15",
        "tenant": "acme",
        "streams": 5,
        "input_tokens": 74,
        "cache_read_tokens": 40,
        "cache_write_tokens": 30,
        "long_cache_write_tokens": 20,
        "output_tokens": 64,
        "reasoning_tokens": 50,
        "cost_usd": "20.000001",
        "unpriced": 4,
        "estimated": 3,
        "open": 1,
    }
    done = await printed(WHOLE, *counted_here, *unpriced, by=by, json=True)
    assert (json.loads(done.out), done.err) == (values, "")
    done = await printed(by=by, csv=True)
    assert (rows_of(done), done.err) == ([{name: str(values[name]) for name in values}], "")
    head, line = (await printed(by=by)).out.splitlines()
    del values["long_cache_write_tokens"]
    assert head.split() == [name.upper() for name in values]
    assert line.split() == [str(value) for value in values.values()]
    assert (await printed(by=by)).err.splitlines() == [
        "4 without a known price: their cost is not in the sum",
        "3 with figures that Tokenwire counted or estimated, not the provider's",
        "1 still open: their figures will grow",
    ]


async def test_a_summary_with_too_many_rows_prints_nothing(printed, monkeypatch, capsys):
    monkeypatch.setattr(store_module, "MAX_SUMMARY_ROWS", 1)
    records = [structs.replace(record, tenant=record.stream_id) for record in copies(2)]
    with pytest.raises(SummaryRefused, match="more than 1 rows"):
        await printed(*records)
    assert capsys.readouterr().out == ""
