"""What is to become of claimed jobs, written in batches: what one turn of the event loop settles leaves together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from saq.job import Status

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, Settlement
from litestar_tasks.queues.holding import BACK, UNSTARTED
from litestar_tasks.queues.postgres.connection import Away, rejects
from litestar_tasks.queues.postgres.statements import SETTLE
from litestar_tasks.queues.retention import record_ttl

if TYPE_CHECKING:
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.postgres.connection import Link

__all__ = ("Operation", "Settling")

logger = logging.getLogger("litestar_tasks.queues")

_BATCH: Final = 200

STATUSES: Final = {
    None: "active",
    Settlement.COMPLETE: "complete",
    Settlement.FAILED: "failed",
    Settlement.ABORTED: "aborted",
    Settlement.QUARANTINED: "failed",
    Settlement.RETRY: "queued",
    Settlement.SNOOZE: "queued",
    Settlement.HAND_BACK: "queued",
}


@dataclass(slots=True, eq=False)
class Operation:
    """What is to be written about one claimed job."""

    settlement: Settlement | None
    """None: nothing becomes of it, its document is written anew."""
    key: str
    token: int
    document: bytes
    attempts: int
    done: asyncio.Future[bool]
    delay: float = 0.0
    ttl: float | None = None
    """Seconds for which the record is kept; None for ever."""
    listed: bool = False
    """Whether the record is found in listings."""
    resent: bool = False
    alone: bool = False

    @classmethod
    def of(
        cls, job: ClaimedJob, settlement: Settlement, delay: float, failed_ttl: int, done: asyncio.Future[bool]
    ) -> Self:
        """What is to be written for a job that is settled."""
        if settlement in BACK:
            document = records.encode(job, status=Status.QUEUED, **UNSTARTED)
            return cls(settlement, job.key, job.token, document, job.attempts, done, delay=max(0.0, delay))
        ttl = record_ttl(job, settlement, failed_ttl)
        document = records.encode(job)
        kept, listed = abs(ttl) if ttl else None, ttl >= 0
        return cls(settlement, job.key, job.token, document, job.attempts, done, ttl=kept, listed=listed)


class Settling:
    """Writes operations, in order, until they are written.

    Args:
        link: The connection.
        queue: The queue's name on the wire.
        outage: Whether the server answers.
        failed_ttl: Seconds for which jobs are kept that are aborted here.
        settled: Called for each operation that has been answered, with the status that the job has now, or None where
            it was refused.
    """

    def __init__(
        self,
        link: Link,
        queue: str,
        outage: Outage,
        *,
        failed_ttl: int,
        settled: Callable[[Operation, str | None], None],
    ) -> None:
        self._link = link
        self._queue = queue
        self._outage = outage
        self._failed_ttl = failed_ttl
        self._settled = settled
        self._waiting: deque[Operation] = deque()
        self._flying: Sequence[Operation] = ()
        self._task: asyncio.Task[None] | None = None

    def add(self, operation: Operation) -> None:
        """Write an operation with the next batch."""
        self._waiting.append(operation)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="settling")

    def drop(self, belongs: Callable[[int], bool]) -> None:
        """Forget what is still to be sent under certain tokens."""
        dropped = [one for one in self._waiting if belongs(one.token)]
        self._waiting = deque(one for one in self._waiting if not belongs(one.token))
        for operation in dropped:
            self._settled(operation, None)

    async def close(self, timeout: float) -> bool:
        """Write what is still to be written.

        Args:
            timeout: Seconds for it, should the server be away.

        Returns:
            Whether everything was written.
        """
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=timeout)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        left = [*self._flying, *self._waiting]
        for operation in left:
            if not operation.done.done():
                operation.done.set_result(False)
        return not left

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._flying = self._load()
                try:
                    rows = await self._send(self._flying)
                except BrokerError as error:
                    for operation in self._flying:
                        operation.resent = operation.resent or not isinstance(error, Away) or error.sent
                    self._waiting.extendleft(reversed(self._flying))
                    self._flying = ()
                    self._outage.failed(error)
                    await self._outage.pause()
                except Exception as error:
                    batch, self._flying = self._flying, ()
                    self._isolate(batch, error)
                else:
                    self._outage.succeeded()
                    batch, self._flying = self._flying, ()
                    accepted: dict[int, str] = dict(rows)
                    for operation in batch:
                        self._settled(operation, accepted.get(operation.token))
        finally:
            self._task = None

    def _load(self) -> list[Operation]:
        """The next batch. No job is twice in it: one statement can change a row but once."""
        batch: list[Operation] = []
        tokens: set[int] = set()
        while self._waiting and len(batch) < _BATCH:
            following = self._waiting[0]
            if following.token in tokens or (following.alone and batch):
                break
            tokens.add(following.token)
            batch.append(self._waiting.popleft())
            if following.alone:
                break
        return batch

    async def _send(self, batch: Sequence[Operation]) -> list[tuple[Any, ...]]:
        tail = (Settlement.RETRY, Settlement.SNOOZE)
        return await self._link.ask(
            SETTLE,
            {
                "queue": self._queue,
                "failed_ttl": self._failed_ttl,
                "keys": [one.key for one in batch],
                "tokens": [one.token for one in batch],
                "statuses": [STATUSES[one.settlement] for one in batch],
                "jobs": [one.document for one in batch],
                "delays": [one.delay for one in batch],
                "tails": [one.settlement in tail for one in batch],
                "attempts": [one.attempts for one in batch],
                "listed": [one.listed for one in batch],
                "ttls": [one.ttl for one in batch],
                "quarantined": [one.settlement is Settlement.QUARANTINED for one in batch],
            },
        )

    def _isolate(self, batch: Sequence[Operation], error: Exception) -> None:
        """The server refused a whole batch for one of its operations: find out which, alone."""
        if not rejects(error):
            logger.error("queue %r: an unforeseen error while settling", self._queue, exc_info=error)
        if len(batch) == 1:
            logger.error("queue %r: the outcome of %r cannot be written: %s", self._queue, batch[0].key, error)
            self._settled(batch[0], None)
            return
        for operation in batch:
            operation.alone = True
        self._waiting.extendleft(reversed(batch))
