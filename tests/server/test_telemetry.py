"""The log at each level."""

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
    said = {"tokenwire_server": set(), "grpc": set(), "sqlalchemy": set(), "openai": set()}
    for line in run(LEVELS, level).stderr.splitlines():
        name, _, last = line.partition(": ")[2].partition(" says ")
        said.setdefault(name.partition(".")[0], set()).add(last)
    assert said.pop("tokenwire_server") == ours
    assert all(found == theirs for found in said.values()), said
