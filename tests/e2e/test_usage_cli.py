"""A customer's view of usage: the command line, with one key, shows what chats cost before and after."""

import asyncio
import csv
import io
import json
import os
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from priced_support import INPUT_PRICE, OUTPUT_PRICE, model, priced, text_of
from tenants_support import keys

import tokenwire
from command_process import command

STREAMS = 1200
"""More than a page."""
WRITTEN_WITHIN_S = 10.0
TEAMS = ["search", "=1+1", 'grün, "1"', ""]


class Customer:
    """The command line and the client, with one key."""

    def __init__(self, address, key):
        self.address = address
        self.key = key

    def run(self, *arguments):
        environ = {name: value for name, value in os.environ.items() if "TOKENWIRE" not in name}
        return subprocess.run(
            [*command(), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            env=environ | {"TOKENWIRE_TARGET": self.address, "TOKENWIRE_KEY": self.key},
            encoding="utf-8",
            start_new_session=True,  # without a terminal
        )

    def csv(self, *arguments):
        """Return the rows of `usage --csv`."""
        done = self.run("usage", "--csv", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return list(csv.DictReader(io.StringIO(done.stdout, newline=""), strict=True))

    def settled(self, count, *arguments):
        """Wait until there are `count` rows and none of them is open. Return them."""
        began = time.monotonic()
        while True:
            rows = self.csv(*arguments)
            if len(rows) == count and all(row["outcome"] != "open" for row in rows):
                return rows
            assert time.monotonic() - began < WRITTEN_WITHIN_S, Counter(
                row["outcome"] for row in rows
            )

    def client(self):
        return tokenwire.AsyncClient(self.address, key=self.key)


@pytest.fixture(scope="module")
def customers(start, simulator, tmp_path_factory):
    """Return a customer of each of two tenants, on a server whose models have prices, except one."""
    folder = tmp_path_factory.mktemp("usage")
    database = f"sqlite:///{folder}/t.db"
    tables = (
        model("short", "openai/sim?tokens=3"),
        model("long", f"openai/sim?itl_ms=2&{text_of(500)}"),
        model("unpriced", "openai/sim?tokens=3", prices=None),
    )
    found = [keys("create", "--tenant", name, database=database) for name in ("acme", "globex")]
    with priced(start, simulator, folder, *tables, database=database) as (_, address):
        yield [Customer(address, key) for key in found]


@pytest.fixture(scope="module")
def acme(customers):
    return customers[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def billed(acme):
    """Return the cost of many streams, as reported at their ends, by stream."""
    costs = {}
    async with acme.client() as client:

        async def one(number):
            labels = {"team": TEAMS[number % len(TEAMS)], "batch": "bill"}
            response = await client.chat("short", f"Hello {number}", labels=labels)
            costs[response.stream_id] = response.finished.usage.cost_microusd

        for first in range(0, STREAMS, 40):
            await asyncio.gather(*map(one, range(first, first + 40)))
    assert len(costs) == STREAMS
    acme.settled(STREAMS, "--label", "batch=bill")
    return costs


async def test_csv_is_enough_to_reconcile_an_invoice(acme, billed):
    rows = acme.csv("--label", "batch=bill")

    assert {row["stream_id"]: int(row["cost_microusd"]) for row in rows} == billed
    assert len(rows) == STREAMS
    for row in rows:
        cost = int(row["input_tokens"]) * INPUT_PRICE + int(row["output_tokens"]) * OUTPUT_PRICE
        assert int(row["cost_microusd"]) == cost
        assert row["cost_usd"] == f"{cost // 10**6}.{cost % 10**6:06d}"
        assert (row["tenant"], row["outcome"], row["reason"]) == ("acme", "finished", "STOP")
        assert acme.key.startswith(row["key_prefix"])
    created = [row["created_time"] for row in rows]
    assert created == sorted(created, reverse=True)
    assert Counter(json.loads(row["labels"])["team"] for row in rows) == {
        team: STREAMS // len(TEAMS) for team in TEAMS
    }


async def test_a_record_is_in_exactly_one_of_two_adjacent_periods(acme, billed):
    rows = acme.csv("--label", "batch=bill")
    middle = rows[STREAMS // 2]["created_time"]

    before = acme.csv("--label", "batch=bill", "--until", middle)
    after = acme.csv("--label", "batch=bill", "--since", middle)

    assert [row["stream_id"] for row in after + before] == [row["stream_id"] for row in rows]
    assert len(after) == STREAMS // 2 + 1


async def test_every_record_is_listed_once_while_new_ones_are_added(acme, billed):
    async with acme.client() as client, asyncio.TaskGroup() as tasks:

        async def go_on():
            while True:
                await client.chat("short", "Hello", labels={"batch": "meanwhile"})
                await asyncio.sleep(0.02)  # so that the exports have most of the CPU

        coming = [tasks.create_task(go_on()) for _ in range(4)]
        exports = []
        try:
            async with asyncio.timeout(3 * WRITTEN_WITHIN_S):
                # Until there were new ones between the first and the last page.
                while len(exports) < 3 or len(exports[-1]) <= max(STREAMS, len(exports[0])):
                    exports.append(await asyncio.to_thread(acme.csv))
        finally:
            for each in coming:
                each.cancel()

    for rows in exports:
        found = Counter(row["stream_id"] for row in rows)
        assert max(found.values()) == 1
        assert billed.keys() <= found.keys()


async def test_the_sums_of_groups_equal_the_sum_of_the_records(acme, billed):
    rows = acme.csv("--label", "batch=bill")
    groups = acme.csv("--label", "batch=bill", "--by", "day,model,label:team,key")
    lines = acme.run("usage", "--label", "batch=bill", "--by", "label:team").stdout.splitlines()
    as_json = acme.run("usage", "--label", "batch=bill", "--by", "model", "--json").stdout

    assert {group["label.team"] for group in groups} == {"", "'=1+1", 'grün, "1"', "search"}
    for name in ("input_tokens", "output_tokens", "cost_microusd"):
        assert sum(int(group[name]) for group in groups) == sum(int(row[name]) for row in rows)
    assert sum(int(group["record_count"]) for group in groups) == STREAMS
    assert sorted(line.split("\t")[0] for line in lines) == sorted(TEAMS)
    total = json.loads(as_json)
    assert int(total["usage"]["costMicrousd"]) == sum(billed.values())
    assert (total["recordCount"], total["unpricedCount"]) == (str(STREAMS), "0")


def test_without_options_usage_is_grouped_by_day(acme, billed):
    today = {datetime.now(UTC).date().isoformat()}
    done = acme.run("usage")
    today.add(datetime.now(UTC).date().isoformat())

    assert done.returncode == 0
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} <= today
    assert done.stderr.startswith("since ")


def test_the_usage_of_another_tenant_is_not_shown(acme, billed, customers):
    _, globex = customers
    assert globex.csv() == []
    assert globex.csv("--label", "batch=bill") == []
    assert globex.run("usage").stdout == ""


def test_the_count_before_a_chat_equals_the_bill_after_it(acme):
    counted = json.loads(acme.run("count", "Hello you", "-m", "short", "--json").stdout)
    done = acme.run("chat", "Hello you", "-m", "short", "--label", "batch=counted")
    (row,) = acme.settled(1, "--label", "batch=counted")

    assert done.returncode == 0
    assert int(counted["inputCostMicrousd"]) == int(counted["inputTokens"]) * INPUT_PRICE
    assert counted["exceedsBudget"] is False
    assert (row["model_asked"], row["reason"]) == ("short", "STOP")
    assert f"${row['cost_usd'].rstrip('0')}, finished: stop" in done.stderr


def test_a_budget_refuses_a_chat_or_ends_its_stream(acme):
    refused = acme.run("chat", "Hello " * 50, "-m", "long", "--max-cost", "0.000001")
    ended = acme.run(
        *("chat", "Hello", "-m", "long", "--max-cost", "0.0005", "--label", "batch=budget")
    )
    (row,) = acme.settled(1, "--label", "batch=budget")

    assert (refused.returncode, refused.stdout) == (6, "")
    assert refused.stderr.startswith("tokenwire: BUDGET_EXCEEDED: ")
    assert ended.returncode == 6
    assert 0 < ended.stdout.count("word") < 500
    assert "finished: budget\n" in ended.stderr
    assert (row["outcome"], row["partial"]) == ("budget", "true")
    assert [found["stream_id"] for found in acme.csv("--outcome", "budget")] == [row["stream_id"]]


def test_a_chat_that_may_cost_more_than_the_threshold_needs_confirmation(acme):
    many = ("--max-output-tokens", "1000")
    dear = acme.run("chat", "Hi", "-m", "short", *many, "--confirm-over", "0.001")
    cheap = acme.run("chat", "Hi", "-m", "short", *many, "--confirm-over", "1")
    unknown = acme.run("chat", "Hi", "-m", "unpriced", "--confirm-over", "1000")

    assert (dear.returncode, dear.stdout) == (1, "")
    assert dear.stderr.startswith("tokenwire: this may cost up to $0.005")
    assert cheap.returncode == 0
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("tokenwire: the price of openai/sim")


def test_an_unknown_cost_is_empty_and_counted_as_unpriced(acme):
    acme.run("chat", "Hi", "-m", "unpriced", "--label", "batch=unpriced")
    (row,) = acme.settled(1, "--label", "batch=unpriced")
    done = acme.run("usage", "--label", "batch=unpriced")

    assert (row["cost_usd"], row["cost_microusd"]) == ("", "")
    assert done.stdout.splitlines()[0].endswith("\t\t1")
    assert "cost unknown\n1 without a known price" in done.stderr


def test_an_invalid_filter_is_reported_in_one_line_of_the_server(acme):
    done = acme.run("usage", "--by", "label:TEAM")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tokenwire: INVALID_REQUEST: label_key")
