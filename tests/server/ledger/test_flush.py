"""The last records of a process whose database does not answer."""

import asyncio
import signal
from contextlib import suppress

import msgspec

from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage.database import Database


async def test_a_record_that_is_lost_at_the_end_is_logged_once(own_postgresql, record, caplog):
    """Including a stream that ended while its figures were being written."""
    opened = [record(str(n)) for n in range(20)]
    async with Database(own_postgresql.new_database()) as database:
        await database.prepare(migrate=True)
        ledger = Ledger(UsageStore(database), "one")
        await ledger.take_turn(tuple)
        own_postgresql.signal_backends(signal.SIGSTOP)
        try:
            for each in opened:
                ledger.begin(each)
            running = asyncio.create_task(ledger.run(tuple))
            await asyncio.sleep(0)  # it has begun to write them
            for each in opened:
                ledger.close(msgspec.structs.replace(each, outcome=Outcome.CANCELLED))
            assert ledger.pending_count == 40
            assert not await ledger.flush(0.3)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        finally:
            own_postgresql.signal_backends(signal.SIGCONT)
    (said,) = (r.getMessage() for r in caplog.records if r.name == writer_module.__name__)
    assert said.startswith("the usage records of 20 streams are not written")
