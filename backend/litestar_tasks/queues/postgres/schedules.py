"""The schedules of a queue on Postgres."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from litestar_tasks.queues.postgres.connection import Connection, execute
from litestar_tasks.queues.postgres.retrying import RetryingLink
from litestar_tasks.queues.schedules import Look, ScheduleStore, Step

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.queues.postgres.connection import Link
    from litestar_tasks.queues.postgres.listener import Announcer

__all__ = ("PostgresSchedules",)

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# At least one row: the clock, when the next one is due that is not yet, then what is due.
_LOOK: Final = f"""
WITH clock AS MATERIALIZED (SELECT {_NOW} AS now)
SELECT clock.now, (SELECT min(due) FROM litestar_tasks_schedules WHERE queue = %(queue)s AND due > clock.now),
    found.id, found.document
FROM clock LEFT JOIN LATERAL (
    SELECT id, document, due FROM litestar_tasks_schedules
    WHERE queue = %(queue)s AND due <= clock.now ORDER BY due, id LIMIT %(limit)s
) AS found ON true
ORDER BY found.due, found.id
"""  # noqa: S608  # a constant of this module
_READ: Final = "SELECT document FROM litestar_tasks_schedules WHERE queue = %(queue)s AND id = %(id)s"
_READ_ALL: Final = "SELECT id, document FROM litestar_tasks_schedules WHERE queue = %(queue)s"
_INSERT: Final = """
INSERT INTO litestar_tasks_schedules (queue, id, document, due) VALUES (%(queue)s, %(id)s, %(new)b, %(due)s)
ON CONFLICT DO NOTHING RETURNING 1
"""
_UPDATE: Final = """
UPDATE litestar_tasks_schedules SET document = %(new)b, due = %(due)s
WHERE queue = %(queue)s AND id = %(id)s AND document = %(seen)b RETURNING 1
"""
_DELETE: Final = """
DELETE FROM litestar_tasks_schedules WHERE queue = %(queue)s AND id = %(id)s AND document = %(seen)b RETURNING 1
"""
# Whoever does the same at the same time waits here, and not later in another order.
_LOCK_MANY: Final = """
SELECT 1 FROM litestar_tasks_schedules WHERE queue = %(queue)s AND id = ANY(%(ids)s::text[]) ORDER BY id FOR UPDATE
"""
_SWAP_MANY: Final = """
WITH step AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(seen)b::bytea[], %(new)b::bytea[], %(due)s::bigint[])
        AS step (id, seen, new, due)
), inserted AS (
    INSERT INTO litestar_tasks_schedules (queue, id, document, due)
    SELECT %(queue)s, id, new, due FROM step WHERE seen IS NULL ORDER BY id
    ON CONFLICT DO NOTHING RETURNING id
), updated AS (
    UPDATE litestar_tasks_schedules AS stored SET document = step.new, due = step.due FROM step
    WHERE stored.queue = %(queue)s AND stored.id = step.id AND stored.document = step.seen RETURNING stored.id
)
SELECT id FROM inserted UNION ALL SELECT id FROM updated
"""
_FORGET_RELEASES: Final = "DELETE FROM litestar_tasks_releases WHERE expires < now() - interval '1 hour'"
_ADVERTISE: Final = """
INSERT INTO litestar_tasks_releases AS known (queue, holder, digest, first_seen, expires)
VALUES (%(queue)s, %(holder)s, %(digest)s,
    coalesce((SELECT min(first_seen) FROM litestar_tasks_releases
        WHERE queue = %(queue)s AND digest = %(digest)s), now()),
    now() + %(seconds)s * interval '1 second')
ON CONFLICT (queue, holder) DO UPDATE SET digest = excluded.digest, expires = excluded.expires,
    first_seen = least(known.first_seen, excluded.first_seen)
"""
_WINNER: Final = """
SELECT digest FROM litestar_tasks_releases WHERE queue = %(queue)s AND expires > now()
GROUP BY digest ORDER BY min(first_seen) DESC, digest DESC LIMIT 1
"""
_WITHDRAW: Final = """
UPDATE litestar_tasks_releases SET expires = now() - interval '1 millisecond'
WHERE queue = %(queue)s AND holder = %(holder)s
"""


class PostgresSchedules(ScheduleStore):
    """A table of documents, with the moments at which they are due.

    Args:
        name: The queue's name on the wire.
        label: Its label, for errors.
        link: The connection.
        announcer: Tells workers that there are jobs.
        store: Stores jobs within a transaction.
    """

    def __init__(
        self,
        name: str,
        label: str,
        link: Link,
        announcer: Announcer,
        store: Callable[[Connection, Sequence[Job]], Awaitable[None]],
    ) -> None:
        super().__init__()
        self._name = name
        self._announcer = announcer
        self._store = store
        self._link = RetryingLink(label, name, link)

    async def look(self, limit: int) -> Look:
        """See ``ScheduleStore.look``."""
        rows = await self._link.ask(_LOOK, {"limit": limit})
        return Look(rows[0][0], rows[0][1], [(id, document) for _, _, id, document in rows if id is not None])

    async def read(self, id: str) -> bytes | None:
        """See ``ScheduleStore.read``."""
        rows = await self._link.ask(_READ, {"id": id})
        return rows[0][0] if rows else None

    async def read_all(self) -> dict[str, bytes]:
        """See ``ScheduleStore.read_all``."""
        return dict(await self._link.ask(_READ_ALL))

    async def swap(self, id: str, seen: bytes | None, new: bytes | None, due: int | None, job: Job | None) -> bool:
        """See ``ScheduleStore.swap``."""
        parameters = {"queue": self._name, "id": id, "seen": seen, "new": new, "due": due}
        statement = _INSERT if seen is None else _DELETE if new is None else _UPDATE

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                if not await execute(connection, statement, parameters):
                    rows = await execute(connection, _READ, parameters)
                    return (rows[0][0] if rows else None) == new
                if job is not None:
                    await self._store(connection, [job])
                return True

        swapped = await self._link.run(work)
        if swapped and job is not None:
            self._announcer.ready()
        return swapped

    async def swap_many(self, steps: Sequence[Step]) -> set[str]:
        """See ``ScheduleStore.swap_many``. In one transaction."""
        parameters = {
            "queue": self._name,
            "ids": [one.id for one in steps],
            "seen": [one.seen for one in steps],
            "new": [one.new for one in steps],
            "due": [one.due for one in steps],
        }

        async def work(connection: Connection) -> set[str]:
            async with connection.transaction():
                await execute(connection, _LOCK_MANY, parameters)
                return {id for (id,) in await execute(connection, _SWAP_MANY, parameters)}

        return await self._link.run(work)

    async def announce(self) -> None:
        """See ``ScheduleStore.announce``."""
        self._announcer.say("schedules")

    async def advertise(self, holder: str, digest: str, seconds: float) -> str:
        """See ``ScheduleStore.advertise``."""
        parameters = {"queue": self._name, "holder": holder, "digest": digest, "seconds": seconds}

        async def work(connection: Connection) -> str:
            async with connection.transaction():
                await execute(connection, _FORGET_RELEASES)
                await execute(connection, _ADVERTISE, parameters)
            ((winner,),) = await execute(connection, _WINNER, parameters)
            return str(winner)

        return await self._link.run(work)

    async def withdraw(self, holder: str) -> None:
        """See ``ScheduleStore.withdraw``."""
        await self._link.ask(_WITHDRAW, {"holder": holder})

    async def close(self) -> None:
        """See ``ScheduleStore.close``. The connection is others', too."""
