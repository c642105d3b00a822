"""`tokenwire-server usage` in this process: every cell of every form, page after page."""

import argparse
import csv
import io
import json

import pytest
from msgspec import structs

from tokenwire_server.commands import usage as usage_module
from tokenwire_server.commands.usage import TooMuch, tell_usage
from tokenwire_server.events import Usage
from tokenwire_server.ledger import store as store_module
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database
from usage_records import OPEN, WHOLE

TOLD = {
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
    "output_tokens": 60,
    "reasoning_tokens": 50,
    "cost_usd": "20.000001",
    "estimated": True,
    "partial": True,
    "attempts": 2,
    "from_cache": False,
    "instance_id": "host:1:ab",
}
UNKNOWN = ("end_time", "ttft_s", "duration_s", "cost_usd", "reasoning_tokens",
           "cache_read_tokens", "cache_write_tokens")  # fmt: skip
ASKED = {
    "tenant": None,
    "since": None,
    "until": None,
    "model": [],
    "label": [],
    "outcome": [],
    "key": None,
    "by": ["tenant"],
    "records": False,
    "csv": False,
    "json": False,
}


@pytest.fixture
async def tell(tmp_path, capsys):
    """Puts records into a database, and tells of all that are there: what stands on stdout and stderr."""
    async with Database(f"sqlite:///{tmp_path}/t.db") as database:
        await database.prepare(migrate=True)

        async def run(*records, **arguments):
            await UsageStore(database).write(records)
            await tell_usage(argparse.Namespace(**ASKED | arguments), database)
            return capsys.readouterr()

        yield run


def rows_of(done):
    return list(csv.DictReader(io.StringIO(done.out, newline=""), strict=True))


def copies(count, **fields):
    return [structs.replace(WHOLE, stream_id=f"{n:032x}", **fields) for n in range(1, count + 1)]


async def test_a_record_tells_each_thing_under_its_own_name(tell):
    done = await tell(WHOLE, records=True, json=True)
    assert json.loads(done.out) == TOLD
    (row,) = rows_of(await tell(records=True, csv=True))
    words = {"labels": '{"team": "search"}', "estimated": "true", "from_cache": "false"}
    as_text = {name: str(value) for name, value in TOLD.items()}
    assert row == as_text | words | {"partial": "true"}


async def test_what_is_not_known_of_a_record_is_null_or_nothing_or_a_dash(tell):
    told = json.loads((await tell(OPEN, records=True, json=True)).out)
    assert [name for name, value in told.items() if value is None] == sorted(
        UNKNOWN, key=list(told).index
    )
    assert (told["estimated"], told["partial"], told["from_cache"]) == (True, False, True)
    (row,) = rows_of(await tell(records=True, csv=True))
    assert {row[name] for name in UNKNOWN} == {""}
    assert (await tell(records=True)).out.split()[-1] == "-"


@pytest.mark.parametrize("count", [3, 4])
async def test_every_page_is_told_once_and_only_the_first_has_a_header(tell, monkeypatch, count):
    monkeypatch.setattr(usage_module, "PAGE_SIZE", 2)
    newest_first = [f"{n:032x}" for n in range(count, 0, -1)]
    rows = rows_of(await tell(*copies(count), records=True, csv=True))
    assert [row["stream_id"] for row in rows] == newest_first
    lines = (await tell(records=True, json=True)).out.splitlines()
    assert [json.loads(line)["stream_id"] for line in lines] == newest_first
    head, *table = (await tell(records=True)).out.splitlines()
    assert head.startswith("CREATED_TIME")
    assert [line.split()[1] for line in table] == newest_first


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
async def test_what_a_spreadsheet_takes_for_a_formula_is_told_as_text(tell, first):
    said = f'{first}cmd,"1"'
    fields = {"model_asked": said, "request_id": said, "labels": {"team": said}}
    record = structs.replace(WHOLE, model=said, provider_response_id=said, **fields)
    (row,) = rows_of(await tell(record, records=True, csv=True))
    for name in ("model_asked", "request_id", "model", "provider_response_id"):
        assert row[name] == f"'{said}", name
    assert row["labels"][0] == "{"
    (group,) = rows_of(await tell(by=["label:team"], csv=True))
    assert group["label.team"] == f"'{said}"


async def test_what_callers_and_providers_name_stays_on_its_line_and_commands_no_terminal(tell):
    named = "x\x1b[2J\r\n\x7f\x9by"
    record = structs.replace(WHOLE, model=named, labels={"team": named})
    for arguments in ({"records": True}, {"by": ["label:team"]}):
        head, line = (await tell(record, **arguments)).out.removesuffix("\n").split("\n")
        assert "x\u241b[2J\u240d\u240a\u2421\ufffdy" in line
        assert head.isprintable()
        assert line.isprintable()


async def test_a_sum_tells_each_thing_under_its_own_name_and_what_is_missing_in_it(tell):
    by = ["label:team", "key", "model", "day", "tenant"]
    counted_here = [structs.replace(r, usage=Usage(1, 1, estimated=True)) for r in copies(3)[1:]]
    unpriced = [structs.replace(WHOLE, stream_id=f"{n:032x}", usage=Usage(1, 1)) for n in (4, 5)]
    unpriced[1] = structs.replace(unpriced[1], outcome=Outcome.OPEN)
    told = {
        "label.team": "search",
        "key_prefix": "tw_0123456789ab",
        "model": "local/llama",
        "day": "2027-01-15",
        "tenant": "acme",
        "streams": 5,
        "input_tokens": 74,
        "cache_read_tokens": 40,
        "cache_write_tokens": 30,
        "output_tokens": 64,
        "reasoning_tokens": 50,
        "cost_usd": "20.000001",
        "unpriced": 4,
        "estimated": 3,
        "open": 1,
    }
    done = await tell(WHOLE, *counted_here, *unpriced, by=by, json=True)
    assert (json.loads(done.out), done.err) == (told, "")
    done = await tell(by=by, csv=True)
    assert (rows_of(done), done.err) == ([{name: str(told[name]) for name in told}], "")
    head, line = (await tell(by=by)).out.splitlines()
    assert head.split() == [name.upper() for name in told]
    assert line.split() == [str(value) for value in told.values()]
    assert (await tell(by=by)).err.splitlines() == [
        "4 of the streams are without a known price, and not in the sum",
        "3 of the streams are counted here and not by their provider",
        "1 of the streams are still open",
    ]


async def test_more_groups_than_an_answer_holds_are_no_part_of_one(tell, monkeypatch, capsys):
    monkeypatch.setattr(store_module, "MAX_SUMMARY_ROWS", 1)
    records = [structs.replace(record, tenant=record.stream_id) for record in copies(2)]
    with pytest.raises(TooMuch, match="more than 1 rows"):
        await tell(*records)
    assert capsys.readouterr().out == ""
