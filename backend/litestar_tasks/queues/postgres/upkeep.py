"""What every worker looks after beside its own jobs: those of lost workers, and records that have had their time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import psycopg

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import tallies
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
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.postgres.connection import Link
    from litestar_tasks.queues.postgres.consumer import Consumer, Terms
    from litestar_tasks.queues.postgres.listener import Announcer

__all__ = ("Upkeep",)

logger = logging.getLogger("litestar_tasks.queues")

_TAKEN: Final = 200
_LOOK: Final = 1.0
"""Seconds between two looks at the processes of this machine, and between two sweeps of a busy queue."""
_IDLE: Final = 30.0
"""Seconds between two sweeps of a queue in which nothing ends."""
_STEP: Final = 200
"""Rows that are removed at a time: announcements wait behind it for the connection."""
_STEPS: Final = 500
_STEP_TIMEOUT: Final = 15.0


class Upkeep:
    """Looks for lost workers, as every worker does; the first to look finds them. One of them sweeps.

    A worker is lost when its lease has lapsed, or, to those who share its machine, when its process has ended. Those
    look twice, and leave a lease alone that was renewed in between: what a process sent last can arrive after its end.

    Args:
        consumer: The worker's hold, under whose lease jobs are failed that were lost too often.
        queue: The queue's name on the wire.
        link: The connection.
        outage: Whether the server answers.
        announcer: Tells others that there are jobs again.
        terms: The lease, and what is kept.
        here: This process, if it can be known.
    """

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
        self._consumer = consumer
        self._queue = queue
        self._link = link
        self._outage = outage
        self._announcer = announcer
        self._terms = terms
        self._here = here
        self._ended: dict[int, Any] = {}
        self._swept = 0.0
        self._lock = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name=f"upkeep-{self._queue}")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hurry(self) -> None:
        """Look now: somebody has left jobs."""
        self._hurry.set()

    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""
        async with self._lock:
            return (await self._recover())[0]

    # Lost workers

    async def _recover(self) -> tuple[int, float]:
        taken, more, wait = 0, True, self._terms.lease / 3
        while more:
            count, more, wait = await self._take()
            taken += count
        return taken, wait

    async def _take(self, ended: int | None = None, seen: Any = None) -> tuple[int, bool, float]:
        """Take jobs of one lost worker: of a certain one, or of whose lease has lapsed.

        Args:
            ended: The number of its lease.
            seen: The moment at which that would lapse, as it stood when the end of its process was first seen.

        Returns:
            How many, whether there may be more, and in how many seconds it is worth looking again.
        """
        later = (0, False, self._terms.lease / 3)
        if (owner := self._consumer.owner) is None:
            return later
        parameters: dict[str, Any] = {
            "queue": self._queue,
            "owner": owner,
            "lease": self._terms.lease,
            "limit": _TAKEN,
            "max_losses": self._terms.max_losses,
            "failed_ttl": self._terms.failed_ttl,
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
            logger.log(
                logging.INFO if leaving else logging.WARNING,
                "queue %r: worker %s %s; its %d jobs wait at the head again",
                self._queue,
                worker,
                "has ended" if leaving else "was lost",
                len(rows),
            )
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

    async def _sweep(self) -> None:
        """Remove records that have expired or are too many, in bounded steps; one worker at a time does it."""
        now = time.monotonic()
        busy, self._consumer.has_ended = self._consumer.has_ended, False
        if not busy and now - self._swept < _IDLE:
            return
        self._swept = now
        if not await self._link.ask(SWEEP_TURN, {"queue": self._queue, "every": _LOOK / 2}):
            self._consumer.has_ended = busy  # another one does; whether it saw what ended here is not known
            return
        await self._remove(EXPIRED, {})
        await self._remove(CLOSED_WINDOWS, {})
        for status, keep in (
            ("complete", self._terms.keep_complete),
            ("failed", self._terms.keep_others),
            ("aborted", self._terms.keep_others),
        ):
            found = await self._link.ask(
                BOUNDARY, {"queue": self._queue, "status": status, "keep": keep}, timeout=_STEP_TIMEOUT
            )
            for ended, position in found:
                await self._remove(SURPLUS, {"status": status, "ended": ended, "position": position})
        await self._link.ask(FORGET_WORKERS)
        first = int(time.time() - tallies.KEPT.total_seconds()) // 60 - 1
        await self._link.ask(FORGET_MINUTES, {"queue": self._queue, "first": first})

    async def _remove(self, statement: str, parameters: dict[str, Any]) -> None:
        for _ in range(_STEPS):
            rows = await self._link.ask(
                statement, {"queue": self._queue, "limit": _STEP, **parameters}, timeout=_STEP_TIMEOUT
            )
            if len(rows) < _STEP:
                return
        self._consumer.has_ended = True  # there is more; others have their turn with the connection first

    # Going round

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._search, self._hurry))
            tasks.create_task(self._repeat(self._watch, asyncio.Event()))

    async def _repeat(self, step: Callable[[], Awaitable[float]], hurry: asyncio.Event) -> None:
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await hurry.wait()
            except TimeoutError:
                pass
            hurry.clear()
            try:
                pause = await step()
            except BrokerError as error:
                self._outage.failed(error)
                pause = 1.0
            except psycopg.Error as error:
                logger.error("queue %r: Postgres refuses what keeps the queue in order: %s", self._queue, error)
                pause = self._terms.lease / 3
            except Exception:
                logger.exception("queue %r: an unforeseen error while looking for lost workers", self._queue)
                pause = self._terms.lease / 3

    async def _watch(self) -> float:
        async with self._lock:
            if self._here is not None:
                await self._look(self._here)
        await self._sweep()
        return _LOOK * random.uniform(0.9, 1.1)  # noqa: S311  # no secret

    async def _search(self) -> float:
        async with self._lock:
            _, wait = await self._recover()
            await self._consumer.audit(self._link)
        # Not all at once, and soon after the moment at which a lease would lapse.
        latest, chance = self._terms.lease / 3, random.random()  # noqa: S311  # no secret
        return min(latest * (0.8 + 0.2 * chance), wait + 0.05 + latest / 10 * chance)
