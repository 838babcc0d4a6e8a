"""What every worker looks after beside its own jobs: those of lost workers, and records that have had their time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import tallies
from litestar_tasks.queues.patrol import LOOK, Patrol
from litestar_tasks.queues.postgres.connection import Connection, execute
from litestar_tasks.queues.postgres.statements import (
    BEAT,
    BOUNDARY,
    CLOSED_WINDOWS,
    ENDED,
    EXPIRED,
    EXTEND,
    FORGET_MINUTES,
    FORGET_WORKERS,
    GUARD,
    LAPSED,
    LEAVE,
    NEXT_LAPSE,
    ORPHANED,
    PROCESSES,
    SURPLUS,
    SWEEP_TURN,
    TAKE,
)
from litestar_tasks.queues.presence import Process

if TYPE_CHECKING:
    from litestar_tasks.queues.holding import Terms
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.postgres.connection import Link
    from litestar_tasks.queues.postgres.consumer import Consumer
    from litestar_tasks.queues.postgres.listener import Announcer

__all__ = ("Upkeep",)

_TAKEN: Final = 200
_IDLE: Final = 30.0
"""Seconds between two sweeps of a queue in which nothing ends."""
_STEP: Final = 200
"""Rows that are removed at a time: announcements wait behind it for the connection."""
_STEPS: Final = 500
_STEP_TIMEOUT: Final = 15.0


class Upkeep(Patrol):
    """Looks for lost workers. One of the workers sweeps.

    Args:
        consumer: The worker's hold, under whose lease jobs are failed that were lost too often.
        queue: The queue's name on the wire.
        link: The connection.
        outage: Whether the server answers.
        announcer: Tells others that there are jobs again.
        terms: The lease, and what is kept.
        here: This process, if it can be known.
    """

    _away = (BrokerError,)

    def __init__(
        self,
        consumer: Consumer,
        queue: str,
        link: Link,
        outage: Outage,
        announcer: Announcer,
        *,
        terms: Terms,
        here: Process | None,
    ) -> None:
        super().__init__(queue, outage, lease=terms.lease, here=here)
        self._consumer = consumer
        self._link = link
        self._announcer = announcer
        self._terms = terms
        self._ended: dict[int, Any] = {}
        self._swept = 0.0

    # Lost workers

    async def _take(self, ended: int | None = None, seen: Any = None) -> tuple[int, bool, float]:
        """Take jobs of one lost worker: of a certain one, or of whose lease has lapsed.

        Args:
            ended: The number of its lease.
            seen: The moment at which that would lapse, as it stood when the end of its process was first seen.

        Returns:
            How many, whether there may be more, and in how many seconds it is worth looking again.
        """
        later = (0, False, self._seldom)
        if (owner := self._consumer.owner) is None:
            return later
        parameters: dict[str, Any] = {
            "queue": self._queue,
            "owner": owner,
            "lease": self._terms.lease,
            "limit": _TAKEN,
            "max_losses": self._terms.max_losses,
            "failed_ttl": self._terms.limits.failed_ttl,
            "lost": ended,
            "seen": seen,
        }

        async def take(connection: Connection) -> tuple[float, tuple[Any, ...] | None, list[tuple[Any, ...]]]:
            async with connection.transaction():
                await execute(connection, BEAT, parameters)
                ((guard,),) = await execute(connection, GUARD, parameters)
                if not await execute(connection, EXTEND, parameters):
                    return later[2], None, []
                statement = LAPSED if ended is None else ENDED
                found = await execute(connection, statement, {**parameters, "guarded": bool(guard)})
                if not found and ended is None and not guard:
                    found = await execute(connection, ORPHANED, parameters)
                if not found:
                    ((wait,),) = await execute(connection, NEXT_LAPSE, parameters)
                    return max(0.0, wait or later[2], guard or 0.0), None, []
                rows = await execute(connection, TAKE, {**parameters, "lost": found[0][0], "leaving": found[0][2]})
                if len(rows) < _TAKEN:
                    await execute(connection, LEAVE, {"owner": found[0][0]})
                return 0.0, found[0], rows

        async with self._consumer.claiming:
            wait, lost, rows = await self._link.run(take)
            if lost is None:
                return 0, False, wait
            _, worker, leaving = lost
            self._consumer.fail_lost(
                [(token, key, job) for status, key, token, job in rows if status == "active"], left=leaving
            )
        if rows:
            self._say_taken(worker, len(rows), left=leaving)
            self._announcer.changed([(key, status) for status, key, *_ in rows if status != "active"])
            self._announcer.ready()
        return len(rows), ended is None or len(rows) == _TAKEN, wait

    async def _look(self, here: Process) -> None:
        """Take what workers of this machine left whose processes have ended."""
        parameters = {"queue": self._queue, "machine": here.machine, "owner": self._consumer.owner or 0}
        rows = await self._link.ask(PROCESSES, parameters)
        ended = {
            number: expires
            for number, text, expires in rows
            if (process := Process.parse(here.machine, text or "")) is not None and process.has_ended()
        }
        seen, self._ended = self._ended, ended
        for number, expires in ended.items():
            more = seen.get(number) == expires
            while more:
                _, more, _ = await self._take(number, expires)

    # Old records

    async def _tidy(self) -> None:
        """Remove records that have expired or are too many, in bounded steps; one worker at a time does it."""
        now = time.monotonic()
        busy, self._consumer.has_ended = self._consumer.has_ended, False
        if not busy and now - self._swept < _IDLE:
            return
        self._swept = now
        if not await self._link.ask(SWEEP_TURN, {"queue": self._queue, "every": LOOK / 2}):
            self._consumer.has_ended = busy  # another one does; whether it saw what ended here is not known
            return
        await self._remove(EXPIRED, {})
        await self._remove(CLOSED_WINDOWS, {})
        for status, keep in (
            ("complete", self._terms.limits.complete),
            ("failed", self._terms.limits.others),
            ("aborted", self._terms.limits.others),
        ):
            found = await self._link.ask(
                BOUNDARY, {"queue": self._queue, "status": status, "keep": keep}, timeout=_STEP_TIMEOUT
            )
            for ended, position in found:
                await self._remove(SURPLUS, {"status": status, "ended": ended, "position": position})
        await self._link.ask(FORGET_WORKERS)
        minutes = tallies.KEPT.total_seconds() // 60 + 1
        await self._link.ask(FORGET_MINUTES, {"queue": self._queue, "minutes": minutes})

    async def _remove(self, statement: str, parameters: dict[str, Any]) -> None:
        for _ in range(_STEPS):
            rows = await self._link.ask(
                statement, {"queue": self._queue, "limit": _STEP, **parameters}, timeout=_STEP_TIMEOUT
            )
            if len(rows) < _STEP:
                return
        self._consumer.has_ended = True  # there is more; others have their turn with the connection first

    async def _audit(self) -> None:
        await self._consumer.audit(self._link)
