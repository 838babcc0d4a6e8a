"""Delivers what is committed to the broker, and removes it when it is safe there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from saq.job import Job

from litestar_tasks.exceptions import BrokerError, PayloadError, QueueUnavailableError
from litestar_tasks.outbox.database import is_away
from litestar_tasks.outbox.rows import AT_ONCE, Batch, Row, Rows
from litestar_tasks.queues import records
from litestar_tasks.queues.base import Delivery

if TYPE_CHECKING:
    from litestar_tasks.outbox.outage import Outage
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("Relay",)

logger = logging.getLogger("litestar_tasks.outbox")

_SWEEP: Final = 0.4
"""Seconds between two looks for rows that whoever committed them has not delivered."""
_GRACE: Final = 400
"""Milliseconds that they have for it."""
_TIDY: Final = 1.0
_PEACE: Final = 1.0
_CERTAIN: Final = 7 * 86_400_000 - 3_600_000
"""Milliseconds for which the broker knows for certain which rows it has had: an hour less than it keeps their names."""
_FRESH: Final = 30.0
"""Seconds for which rows may be delivered that were read. Whoever was frozen for longer reads them anew."""
_LAST: Final = 2.0
_LONGEST_PAUSE: Final = 2.0


class Relay:
    """Delivers rows of an outbox: those of transactions that it is told of, and, in workers, those that were left.

    It may run in any number of processes.

    Args:
        rows: The outbox's rows.
        queues: The queues by their names on the wire.
        outage: What is known of the way to the database.
        ready: Awaited before each round, until it says that rows are to be delivered at all.
        sweeping: Whether to look for rows that others have left.
    """

    def __init__(
        self,
        rows: Rows,
        queues: Mapping[str, TaskQueue],
        outage: Outage,
        *,
        ready: Callable[[], Awaitable[object]],
        sweeping: bool,
    ) -> None:
        self._rows = rows
        self._queues = queues
        self._outage = outage
        self._ready = ready
        self._sweeping = sweeping
        self._loop = asyncio.get_running_loop()
        self._told: deque[str] = deque()
        self._turn = asyncio.Lock()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._away: dict[str, float] = {}
        """Until when the brokers of queues are left in peace, which did not answer."""

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run(), name="outbox-relay")

    def tell(self, transaction: str) -> None:
        """Say that a transaction has committed; from any thread."""
        self._told.append(transaction)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stir.set)

    async def flush(self) -> None:
        """Deliver all rows that wait, as far as the brokers and the database answer."""
        try:
            await self._drain(None, 0)
        except Exception as error:
            if not is_away(error):
                raise
            self._outage.failed(error)

    async def close(self) -> None:
        """Deliver what was told, within two seconds, and stop. Workers deliver the rest."""
        if self._task is None:
            return
        self._closing = True
        self._stir.set()
        await asyncio.wait({self._task}, timeout=_LAST)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _run(self) -> None:
        tidied = pause = 0.0
        while True:
            await self._pause(pause)
            told = [self._told.popleft() for _ in range(len(self._told))]
            try:
                await self._ready()
                for start in range(0, len(told), AT_ONCE):
                    await self._drain(told[start : start + AT_ONCE], 0)
                if self._closing and not self._told:
                    return
                if self._sweeping:
                    await self._drain(None, _GRACE)
                    if time.monotonic() - tidied >= _TIDY:
                        tidied = time.monotonic()
                        await self._tidy()
            except Exception as error:
                if is_away(error):
                    self._outage.failed(error)
                    pause = min(_LONGEST_PAUSE, max(_SWEEP, pause * 2))
                else:
                    logger.exception("an unforeseen error in the outbox's relay")
                    pause = _LONGEST_PAUSE
            else:
                self._outage.succeeded()
                pause = 0.0

    async def _pause(self, pause: float) -> None:
        """Wait until there is something to do; after a failure at least for so long."""
        if pause and not self._closing:
            await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(_SWEEP if self._sweeping or pause else None):
                await self._stir.wait()
        except TimeoutError:
            pass
        self._stir.clear()

    async def _drain(self, transactions: Sequence[str] | None, older: int) -> None:
        while await self._deliver(transactions, older):
            pass

    async def _deliver(self, transactions: Sequence[str] | None, older: int) -> bool:
        """Deliver a batch of rows, and return whether there may be more."""
        now = time.monotonic()
        names = [name for name in self._queues if self._away.get(name, 0.0) <= now]
        if not names:
            return False
        async with self._turn, self._rows.waiting(names, transactions=transactions, older=older) as batch:
            read = time.monotonic()
            # Stable: within a queue the order stays.
            for name, rows in groupby(sorted(batch.rows, key=lambda row: row.queue), key=lambda row: row.queue):
                await self._hand_over(self._queues[name], list(rows), batch, read)
        if batch.parked:
            row, reason = batch.parked[0]
            logger.error(
                "%d rows of the outbox are parked, and somebody has to decide about them: litestar tasks outbox shows "
                "them. The first is %s of queue %r: %s",
                len(batch.parked),
                row.id,
                row.queue,
                reason,
            )
        return len(batch.rows) == AT_ONCE  # those whose broker does not answer are left out of the next one

    async def _hand_over(self, queue: TaskQueue, rows: list[Row], batch: Batch, read: float) -> None:
        deliveries: list[tuple[Row, Delivery]] = []
        for row in rows:
            if row.age > _CERTAIN:
                days = row.age / 86_400_000
                reason = f"doubtful: it has waited for {days:.1f} days, and the broker may not know any more whether it"
                batch.parked.append((row, f"{reason} became a job"))
                continue
            try:
                job = records.restore(Job, queue, row.document.encode())
            except records.UndecodableError as error:
                batch.parked.append((row, f"unreadable: {error}"))
                continue
            deliveries.append((row, Delivery(row.id, job, row.once)))
        try:
            # Before the delivery: what a later incarnation has is delivered once more, and heeded once.
            broker = await queue.incarnation()
            if time.monotonic() - read > _FRESH:
                return
            await self._send(queue, deliveries, batch, broker)
        except (QueueUnavailableError, BrokerError) as error:
            logger.debug("queue %r: rows of the outbox wait: %s", queue.label, error)  # the queue has said it louder
            self._away[queue.name] = time.monotonic() + _PEACE

    async def _send(
        self, queue: TaskQueue, deliveries: Sequence[tuple[Row, Delivery]], batch: Batch, broker: str | None
    ) -> None:
        try:
            await queue.deliver([one for _, one in deliveries])
        except PayloadError as error:
            if len(deliveries) == 1:
                batch.parked.append((deliveries[0][0], f"refused: {error}"))
                return
            for one in deliveries:
                await self._send(queue, [one], batch, broker)
            return
        batch.delivered((row for row, _ in deliveries), broker)

    async def _tidy(self) -> None:
        """Remove what is safe in the broker, and deliver again what it may have forgotten."""
        for which in await self._rows.safe(list(self._queues)):
            queue = self._queues[which.queue]
            try:
                incarnation = await queue.incarnation()
            except (QueueUnavailableError, BrokerError):
                continue
            if incarnation == which.broker:
                await self._forget(queue, await self._rows.remove(which))
            elif count := await self._rows.deliver_again(which):
                logger.warning(
                    "queue %r: the broker was restarted or replaced; %d jobs of the outbox that it had just got are "
                    "delivered again, and those that it still knows stay as they are",
                    queue.label,
                    count,
                )

    async def _forget(self, queue: TaskQueue, rows: Sequence[str]) -> None:
        for part in _parts(rows):
            try:
                await queue.release(part)
            except (QueueUnavailableError, BrokerError) as error:
                logger.debug("queue %r: names of rows are kept for longer: %s", queue.label, error)


def _parts(rows: Sequence[str]) -> Iterable[Sequence[Any]]:
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))
