"""Workers that cannot run, and workers that must stop at once."""

import asyncio

import pytest

from tokenwire_server.config import ConfigError, Settings, WorkerConfig
from tokenwire_server.signals import Stop
from tokenwire_server.workers import process, supervisor
from tokenwire_server.workers.address import reserved
from tokenwire_server.workers.channel import Start
from tokenwire_server.workers.supervisor import MAX_FAILURES, Supervisor

SETTINGS = Settings(workers=2, resume=False)


def starts(address="127.0.0.1:1", database=""):
    """Return a function that returns the start message of a worker."""

    def start_of(settings, number, *, migrates):
        worker = WorkerConfig(
            number=number,
            address=address,
            database=database,
            migrates=migrates,
            simulator_url="http://127.0.0.1:1",
        )
        return Start(settings=settings, config=None, flags={}, is_demo=True, worker=worker)

    return start_of


async def test_after_repeated_ends_at_the_start_the_server_ends_with_an_error(monkeypatch, caplog):
    monkeypatch.setattr(process, "COMMAND", "no-such-command")  # ends with exit code 2
    monkeypatch.setattr(supervisor, "MAX_DELAY_S", 0.0)
    workers = Supervisor(SETTINGS, lambda: SETTINGS, starts(), None)
    try:
        with pytest.raises(ConfigError, match="worker 1 ended before it was ready: exit code 2"):
            await workers.start()
        assert not await workers.serve(Stop())
    finally:
        await workers.aclose()
    replaced = [r for r in caplog.records if "is replaced" in r.message]
    assert MAX_FAILURES - 1 <= len(replaced) <= 2 * (MAX_FAILURES - 1)
    # The other worker may end once more before the server stops.
    given_up = [r for r in caplog.records if "5 times in a row before it was ready" in r.message]
    assert given_up


async def test_a_second_signal_ends_the_grace_period_of_the_workers(tmp_path):
    settings = Settings(workers=1, drain_accept_s=300.0, drain_grace_s=300.0)
    database = f"sqlite:///{tmp_path}/tokenwire.db"
    with reserved("127.0.0.1:0") as address:
        workers = Supervisor(settings, lambda: settings, starts(address, database), None)
        stop = Stop()
        try:
            await workers.start()
            serving = asyncio.create_task(workers.serve(stop))
            stop.requested.set()
            await asyncio.sleep(0.1)
            assert not serving.done()
            stop.hurried.set()
            assert await asyncio.wait_for(serving, 30)
        finally:
            await workers.aclose()
