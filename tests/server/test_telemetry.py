"""The log at each level, and its formats."""

import json
import select
import subprocess
import sys

import pytest

DATABASE_AT_WORK = """
import asyncio, logging, sys
from tokenwire_server.storage.database import Database
from tokenwire_server.telemetry import configure_logging
from tokenwire_server.tenants.keystore import KeyStore

async def main():
    async with Database(sys.argv[1]) as database:
        await database.prepare(migrate=True)
        store = KeyStore(database)
        key, _ = await store.create("acme-tenant")
        await store.changes(0)
        await store.revoke(key.prefix)
        print(key.prefix, key.digest.hex())

configure_logging("DEBUG")
logging.getLogger("tokenwire_server").debug("ours")
asyncio.run(main())
"""

LEVELS = """
import logging, sys
from tokenwire_server.telemetry import QUIET, configure_logging
configure_logging(sys.argv[1])
for name in ("tokenwire_server.app", *(f"{name}.inner" for name in QUIET)):
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "%s says %s", name, logging.getLevelName(level))
"""


RECORDS = """
import logging, sys
from tokenwire_server.telemetry import FIELDS, configure_logging, internal_fault
configure_logging("INFO", sys.argv[1])
logger = logging.getLogger("tokenwire_server.app")
logger.info("two %s", "words", extra={FIELDS: {"count": 3, "model": "a\\nb", "text": "x=1", "cost": 0.5}})
try:
    raise ValueError("why")
except ValueError as error:
    internal_fault(error)
"""

UNREAD = """
import logging
from tokenwire_server.telemetry import configure_logging
configure_logging("INFO")
for number in range(10_000):
    logging.getLogger("tokenwire_server.app").info("record %d", number)
print("written", flush=True)
input()
logging.getLogger("tokenwire_server.app").info("the last one")
"""

LONG_UNREAD = """
import logging
from tokenwire_server.telemetry import configure_logging
configure_logging("INFO")
logging.getLogger("tokenwire_server.app").info("long %s", "x" * 1_000_000)
print("written", flush=True)
input()
logging.getLogger("tokenwire_server.app").info("the last one")
"""


pytestmark = pytest.mark.process


def run(program, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result


def test_queries_are_not_logged_even_at_debug(database_url):
    result = run(DATABASE_AT_WORK, database_url)
    prefix, digest = result.stdout.split()
    assert "ours" in result.stderr
    assert "SELECT" not in result.stderr
    assert "INSERT" not in result.stderr
    assert prefix not in result.stderr
    assert digest[:16] not in result.stderr
    assert "acme-tenant" not in result.stderr


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("DEBUG", {"INFO", "WARNING", "ERROR"}, {"WARNING", "ERROR"}),
        ("WARNING", {"WARNING", "ERROR"}, {"WARNING", "ERROR"}),
        ("ERROR", {"ERROR"}, {"ERROR"}),
    ],
)
def test_libraries_log_less_than_the_server_and_never_more(level, ours, theirs):
    said = {"tokenwire_server": set(), "grpc": set(), "sqlalchemy": set(), "httpx2": set()}
    for line in run(LEVELS, level).stderr.splitlines():
        name, _, last = line.partition(": ")[2].partition(" says ")
        said.setdefault(name.partition(".")[0], set()).add(last)
    assert said.pop("tokenwire_server") == ours
    assert all(found == theirs for found in said.values()), said


def test_text_is_one_line_a_record_whatever_a_caller_puts_into_its_fields():
    first, second, *traceback = run(RECORDS, "text").stderr.splitlines()
    assert first.endswith(
        r' INFO tokenwire_server.app: two words count=3 model="a\nb" text="x=1" cost=0.5'
    )
    assert " ERROR tokenwire_server.telemetry.logging: internal error " in second
    assert (traceback[0], traceback[-1]) == (
        "Traceback (most recent call last):",
        "ValueError: why",
    )


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_json_is_one_object_a_record_with_its_fields_and_its_traceback(log_format):
    first, second = map(json.loads, run(RECORDS, log_format).stderr.splitlines())
    assert {"time", "logger"} < first.keys()
    assert first["level"] == "INFO"
    assert first["event"] == "two words"
    assert {name: first[name] for name in ("count", "model", "text", "cost")} == {
        "count": 3,
        "model": "a\nb",
        "text": "x=1",
        "cost": 0.5,
    }
    assert second["level"] == "ERROR"
    assert second["exception"].endswith("ValueError: why")


def test_a_log_that_is_not_read_stops_nothing_and_the_dropped_records_are_counted():
    pipe = subprocess.PIPE
    program = [sys.executable, "-c", UNREAD]
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "written\n"
        written = [process.stderr.readline() for _ in range(20)]
        *_, counted, last = process.communicate("\n", timeout=60)[1].splitlines()
    assert written[-1].endswith("record 19\n")
    assert "log records were dropped: standard error was not read" in counted
    assert last.endswith("the last one")


def test_a_record_that_the_pipe_cannot_take_is_cut_off():
    pipe = subprocess.PIPE
    program = [sys.executable, "-c", LONG_UNREAD]
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert select.select([process.stdout], [], [], 30)[0], "the log waits for its reader"
            process.stderr.read(32_768)
            *_, counted, last = process.communicate("\n", timeout=30)[1].splitlines()
        finally:
            process.kill()
    assert "1 log records were dropped: standard error was not read" in counted
    assert last.endswith("the last one")
