"""`tokenwire-server usage`: the operator's view of the ledger, in a process of its own."""

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from server_process import completed
from tokenwire_server.events import Usage
from tokenwire_server.ledger.record import Outcome, UsageRecord
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.storage.database import Database

DAY_S = 86400


def record(number, *, days_ago=0.0, tenant="acme", usage, **fields):
    now = time.time() - days_ago * DAY_S
    said = {
        "instance_id": "host:1:ab",
        "key_prefix": "tw_0123456789ab",
        "request_id": "",
        "labels": {},
        "model_asked": "fast",
        "provider": "openai",
        "model": "gpt",
        "end_time": now + 1.5,
        "outcome": Outcome.FINISHED,
        "reason": "STOP",
        "attempts": 1,
    }
    return UsageRecord(
        stream_id=f"{number:032x}", tenant=tenant, created_time=now, usage=usage, **said | fields
    )


RECORDS = [
    record(1, usage=Usage(100, 10, cost_microusd=1_234_567), labels={"team": "=cmd()", "a": "b,c"}),
    record(2, usage=Usage(7, 3, estimated=True, cost_microusd=33), outcome=Outcome.CANCELLED,
           reason="CANCELLED", partial=True),
    record(3, usage=Usage(5, 5), tenant="globex", provider="local", model="llama"),
    record(4, usage=Usage(1, 0, estimated=True, cost_microusd=9), outcome=Outcome.OPEN, reason="",
           end_time=None, tenant="globex"),
    record(5, usage=Usage(1000, 1000, cost_microusd=50), days_ago=40),
]  # fmt: skip


@pytest.fixture(scope="module")
def database(new_database):
    url = new_database()

    async def fill():
        async with Database(url) as database:
            await database.prepare(migrate=True)
            await UsageStore(database).write(RECORDS)

    asyncio.run(fill())
    return url


@pytest.fixture(scope="module")
def usage(database):
    def run(*arguments):
        done = completed("usage", *arguments, "--database", database)
        assert done.returncode == 0, done.stderr
        return done

    return run


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_table_has_the_sums_of_every_tenant_and_reports_what_they_lack(usage):
    acme, globex = lines(usage("--json"))
    assert (acme["tenant"], acme["streams"], acme["cost_usd"]) == ("acme", 2, "1.234600")
    assert (globex["tenant"], globex["cost_usd"], globex["unpriced"]) == ("globex", "0.000009", 1)
    table = usage()
    assert table.stdout.splitlines()[0].split()[:3] == ["TENANT", "STREAMS", "INPUT_TOKENS"]
    assert table.stderr.splitlines() == [
        "1 without a known price: their cost is not in the sum",
        "2 with figures that Tokenwire counted or estimated, not the provider's",
        "1 still open: their figures will grow",
    ]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], {1, 2, 3, 4}),
        (["--since", "50d"], {1, 2, 3, 4, 5}),
        (["--until", "1d", "--since", "50d"], {5}),
        (["--tenant", "globex"], {3, 4}),
        (["--model", "local/llama"], {3}),
        (["--model", "fast", "--outcome", "open", "--outcome", "cancelled"], {2, 4}),
        (["--label", "team==cmd()"], {1}),
        (["--label", "team==cmd()", "--label", "a=x"], set()),
        (["--key", "tw_ffffffffffff"], set()),
        (["--limit", "2", "--since", "50d"], {3, 4}),
    ],
)
def test_options_select_the_records(usage, arguments, numbers):
    found = [int(line["stream_id"], 16) for line in lines(usage("--records", "--json", *arguments))]
    assert sorted(found) == sorted(numbers)


def test_csv_has_every_record_with_its_exact_cost_and_no_formula(usage):
    text = usage("--records", "--csv", "--since", "50d").stdout
    rows = {int(row["stream_id"], 16): row for row in csv.DictReader(io.StringIO(text, newline=""))}
    known = {r: Decimal(row["cost_usd"]) for r, row in rows.items() if row["cost_usd"]}
    assert rows.keys() == {1, 2, 3, 4, 5}
    assert sum(known.values()) == Decimal(1_234_567 + 33 + 9 + 50) / 10**6
    assert rows[3]["cost_usd"] == ""  # unknown, which is not 0
    assert json.loads(rows[1]["labels"]) == {"team": "=cmd()", "a": "b,c"}
    grouped = csv.reader(io.StringIO(usage("--by", "label:team", "--csv").stdout, newline=""))
    assert [row[:2] for row in grouped] == [["label.team", "streams"], ["", "3"], ["'=cmd()", "1"]]


def test_without_records_the_output_is_a_header_or_a_message(usage):
    assert usage("--csv", "--tenant", "nobody").stdout.startswith("tenant,streams,")
    assert usage("--records", "--csv", "--tenant", "nobody").stdout.startswith("created_time,")
    nothing = usage("--tenant", "nobody")
    assert nothing.stdout == ""
    assert re.fullmatch(r"no streams since [\d :-]+ \(UTC\) in .+\n", nothing.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is not a span before now"),
        (["--by", "colour"], "--by: 'colour' is not one of tenant, day, model, key, label:KEY"),
        (["--by", "day,day"], "--by: day is given twice"),
        (["--by", "label:"], "--by: 'label:' is not one of"),
        (["--label", "team"], "--label: 'team' is not KEY=VALUE"),
        (["--outcome", "lots"], "--outcome: 'lots' is not one of open, finished"),
        (["--key", "x"], "--key: must be the beginning of a key"),
        (["--csv", "--json"], "--csv contradicts --json"),
        (["--records", "--by", "day"], "--records contradicts --by"),
        (["--csv", "--limit", "5"], "--limit is only for records: add --records"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_reported_by_name(arguments, said):
    done = completed("usage", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"tokenwire-server usage: error: {said}")


def test_a_closed_pipe_is_not_an_error(database):
    argv = [sys.executable, "-m", "tokenwire_server", "usage", "--records", "--csv"]
    process = subprocess.Popen(
        [*argv, "--database", database], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 0)
    process.stderr.close()
