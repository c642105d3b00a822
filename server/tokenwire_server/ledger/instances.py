"""Leases of server processes, and the records of processes that are gone.

A process holds a lease, which it renews every RENEW_S. Any process closes an open record as LOST if two
conditions are true: the record's process has no lease, and the record was not written for LEASE_S. So a
stream whose process was killed becomes LOST after LEASE_S to LEASE_S + CLOSE_EVERY_S, if another process
runs, or otherwise when the next one starts. It cannot happen earlier, because the process may still be
alive.

All times are those of the database's clock, so the clocks of machines may differ. On SQLite that is this
machine's clock. A jump of the clock by more than a lease, a failover to a database server whose clock is
that far ahead, or a pause of a process that long closes records of live processes. The next checkpoint,
within a second, corrects this: what a stream's own process writes replaces LOST.
"""

from __future__ import annotations

import os
import secrets
import socket

from sqlalchemy import case, delete, exists, literal_column, select, update

from ..errors import ProducerLost
from ..storage.database import Database
from ..storage.schema import instances, usage_records
from ..storage.sql import DatabaseTime, upsert
from .record import Outcome

LEASE_S = 10.0
RENEW_S = 2.0
CLOSE_EVERY_S = 5.0
CLOSE_BATCH = 1000
"""Maximum number of records that one transaction closes."""

LOST_REASON = ProducerLost.reason

# A literal, as in the index of open records, which would not be used with a parameter.
_IS_OPEN = usage_records.c.outcome == literal_column(f"'{Outcome.OPEN}'")


def new_instance_id() -> str:
    """Return an id for this process. A restarted process has another one, even with the same process id."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Instances:
    """Leases and lost records.

    Every method raises StoreUnavailable. It has then changed all or nothing, and can be repeated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, instance_id: str) -> None:
        """Renew the lease of a process until LEASE_S from now. Create it if there is none."""
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
        """Remove the lease. Records that are still open become LOST when they were not written for
        LEASE_S.
        """
        async with self._database.writing() as connection:
            await connection.execute(
                delete(instances).where(instances.c.instance_id == instance_id)
            )

    async def close_lost(self) -> int:
        """Close the open records of processes that are gone, and remove the leases of these processes.

        Return the number of closed records, at most CLOSE_BATCH. Several processes may do this at once.
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
            .with_for_update(skip_locked=True, of=usage_records)  # no effect on SQLite
        )
        last_seen = case(
            (
                usage_records.c.update_time > usage_records.c.created_time,
                usage_records.c.update_time,
            ),
            else_=usage_records.c.created_time,
        )
        has_open_records = exists().where(
            _IS_OPEN, usage_records.c.instance_id == instances.c.instance_id
        )
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
                delete(instances).where(instances.c.lease_expire_time < now, ~has_open_records)
            )
        return closed.rowcount
