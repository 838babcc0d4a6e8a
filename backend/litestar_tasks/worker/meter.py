"""How the attempts of one worker fared, minute by minute: counted here, and written now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from litestar_tasks.queues.base import Settlement
from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute

if TYPE_CHECKING:
    from litestar_tasks.queues.operations import Operations

__all__ = ("Meter",)

logger = logging.getLogger("litestar_tasks.worker")

_EVERY: Final = 5.0
_LAST: Final = 2.0
"""Seconds for what is written at the end, should the broker be away."""
_KEPT: Final = 60
"""Minutes that are kept while the broker is away."""
_LONGEST: Final = len(BOUNDS)
_FIELDS: Final = {
    Settlement.COMPLETE: "complete",
    Settlement.FAILED: "failed",
    Settlement.QUARANTINED: "failed",
    Settlement.ABORTED: "aborted",
    Settlement.RETRY: "retried",
}


_Sort: TypeAlias = tuple[int, str, Settlement, int, int]
"""Attempts that are counted together: minute, task, what became of them, bits of the ms that they waited and ran."""


class Meter:
    """Counts what became of attempts.

    Args:
        queue: Where the counts are written.
    """

    def __init__(self, queue: Operations) -> None:
        self._queue = queue
        self._pending: dict[_Sort, int] = {}
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write every few seconds."""
        self._task = asyncio.create_task(self._run(), name="meter")

    async def close(self) -> None:
        """Write what is left, if the broker answers soon."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST):
                await self.write()

    def count(self, task: str, settlement: Settlement, *, ready: float, started: float, ended: int) -> None:
        """Take note of an attempt whose outcome has been accepted. Called for every one, so it does little.

        Args:
            task: The task.
            settlement: What became of the job.
            ready: When the attempt could have been started, in ms.
            started: When it was, in ms.
            ended: When it ended, in ms.
        """
        waited, ran = started - ready, ended - started
        sort = (
            ended // 60_000,
            task,
            settlement,
            # Just below a power of two, which belongs to the bucket that it bounds.
            int(waited - 0.0001).bit_length() if waited > 1 else 0,
            int(ran - 0.0001).bit_length() if ran > 1 else 0,
        )
        self._pending[sort] = self._pending.get(sort, 0) + 1

    async def write(self) -> None:
        """Write what has been counted since the last time, in one round trip. What cannot be written is kept."""
        async with self._writing:
            pending, self._pending = self._pending, {}
            minutes = list(_fold(pending))
            if not minutes:
                return
            try:
                await self._queue.add_minutes(minutes)
            except BaseException as error:
                self._keep(pending)
                if not isinstance(error, Exception):
                    raise
                logger.debug("what was counted could not be written: %s", error)

    def _keep(self, unwritten: dict[_Sort, int]) -> None:
        """Put back what was not written, the latest hour of it."""
        for sort, number in unwritten.items():
            self._pending[sort] = self._pending.get(sort, 0) + number
        dropped = set(sorted({minute for minute, *_ in self._pending})[:-_KEPT])
        if dropped:
            self._pending = {sort: number for sort, number in self._pending.items() if sort[0] not in dropped}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self.write()


def _fold(pending: dict[_Sort, int]) -> Iterator[Minute]:
    """What was counted, by minute and task. What did not count as an attempt is left out."""
    minutes: dict[int, dict[str, TaskMinute]] = {}
    for (minute, task, settlement, waited, ran), number in pending.items():
        field = _FIELDS.get(settlement)
        if field is None:
            continue
        counted = minutes.setdefault(minute, {}).setdefault(task, TaskMinute())
        setattr(counted, field, getattr(counted, field) + number)
        counted.waited[min(waited, _LONGEST)] += number
        counted.ran[min(ran, _LONGEST)] += number
    for minute, tasks in minutes.items():
        yield Minute(datetime.fromtimestamp(minute * 60, UTC), tasks)
