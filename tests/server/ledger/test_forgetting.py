"""Old records that a database does not let go."""

import asyncio
import time
from contextlib import suppress

from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome
from tokenwire_server.ledger.writer import Ledger

ALL = UsageQuery(tenant=None)
REFUSED = {
    "sqlite": "CREATE TRIGGER refuse BEFORE DELETE ON tokenwire_usage_records "
    "BEGIN SELECT RAISE(ABORT, 'kept by law'); END",
    "postgresql": "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE 'kept by law'; END $$; CREATE TRIGGER refuse BEFORE DELETE "
    "ON tokenwire_usage_records FOR EACH ROW EXECUTE FUNCTION refuse()",
}


async def test_old_records_that_cannot_be_deleted_keep_no_new_one_from_being_written(
    database_url, store, record, sql, caplog
):
    old = record("old", created_time=1000.0, outcome=Outcome.FINISHED)
    await store.write([old])
    sql(REFUSED[database_url.partition(":")[0]])
    ledger = Ledger(store, "one", keep_s=3600)
    running = asyncio.create_task(ledger.run(tuple))
    longest_s = 0.0
    for n in range(12):
        began, written = time.monotonic(), ledger.written_count
        ledger.begin(record(str(n), created_time=time.time()))
        while ledger.written_count == written:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.monotonic() - began)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (
        longest_s < 4
    )  # 0.3 on an idle machine; each time later than before, up to 5 s, when it is taken for an outage
    assert old in await store.page(ALL)
    (said,) = (r.getMessage() for r in caplog.records if r.name == writer_module.__name__)
    assert said.startswith("old usage records cannot be deleted: ")
    assert "kept by law" in said
