"""Which processes live, and what becomes of the records of one that does not.

A process holds a lease, which it renews every RENEW_S. An open record is closed as LOST, by whichever
process sees it first, once two things are true: its process holds no lease, and it was not written for
as long as a lease lasts. Both by the database's clock, so that the clocks of machines may differ as they
like. On SQLite that is this machine's clock; a jump of it by more than a lease, or a database server
that takes over with a clock so far ahead, closes records of the living, as does a pause of theirs that
long. That is mended by the next checkpoint, within a second: what its process says of a stream wins
over LOST.

So a stream whose process was killed is LOST after LEASE_S to LEASE_S + CLOSE_EVERY_S, while another
process runs or when the next one has started; never at once, since it cannot be told from one that lives.
"""

from __future__ import annotations

import os
import secrets
import socket

from sqlalchemy import case, delete, exists, literal_column, select, update

from ..storage.database import Database
from ..storage.schema import instances, usage_records
from ..storage.sql import DatabaseTime, upsert
from .record import Outcome

LEASE_S = 10.0
RENEW_S = 2.0
CLOSE_EVERY_S = 5.0
CLOSE_BATCH = 1000
"""Records that one transaction closes."""

LOST_REASON = "PRODUCER_LOST"

# Literally, as the index of open records has it: with a parameter it would not be used.
_IS_OPEN = usage_records.c.outcome == literal_column(f"'{Outcome.OPEN}'")


def new_instance_id() -> str:
    """Of this process: one that starts anew is another one, also under the same number."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Instances:
    """Leases and lost records. Every method raises StoreUnavailable; then it was done whole or not at
    all, and can be done again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, instance_id: str) -> None:
        """Hold the lease for LEASE_S from now; begin to, or begin again, if need be."""
        now = DatabaseTime()
        async with self._database.writing() as connection:
            lease = upsert(connection, instances).values(
                instance_id=instance_id, started_time=now, lease_expire_time=now + LEASE_S
            )
            await connection.execute(
                lease.on_conflict_do_update(
                    index_elements=[instances.c.instance_id],
                    set_={"lease_expire_time": lease.excluded.lease_expire_time},
                )
            )

    async def release(self, instance_id: str) -> None:
        """Give the lease up: what is still open is LOST once it was not written for LEASE_S."""
        async with self._database.writing() as connection:
            await connection.execute(
                delete(instances).where(instances.c.instance_id == instance_id)
            )

    async def close_lost(self) -> int:
        """Close the open records of processes that are gone, and forget those: how many it closed.

        Any number of processes may do it at once; at most CLOSE_BATCH records in one call.
        """
        now = DatabaseTime()
        leased = exists().where(
            instances.c.instance_id == usage_records.c.instance_id,
            instances.c.lease_expire_time >= now,
        )
        lost = (
            select(usage_records.c.stream_id)
            .where(
                _IS_OPEN,
                usage_records.c.update_time < now - LEASE_S,
                ~leased,
            )
            .limit(CLOSE_BATCH)
            .with_for_update(
                skip_locked=True, of=usage_records
            )  # nothing on SQLite: it has one writer
        )
        last_seen = case(
            (
                usage_records.c.update_time > usage_records.c.created_time,
                usage_records.c.update_time,
            ),
            else_=usage_records.c.created_time,
        )
        owes = exists().where(_IS_OPEN, usage_records.c.instance_id == instances.c.instance_id)
        async with self._database.writing() as connection:
            closed = await connection.execute(
                update(usage_records)
                .where(usage_records.c.stream_id.in_(lost))
                .values(
                    outcome=Outcome.LOST.value,
                    reason=LOST_REASON,
                    partial=True,
                    end_time=last_seen,
                    update_time=now,
                )
            )
            await connection.execute(
                delete(instances).where(instances.c.lease_expire_time < now, ~owes)
            )
        return closed.rowcount
