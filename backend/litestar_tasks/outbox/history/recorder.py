"""Hears what happens to jobs in this process, and writes it down, off everybody's way."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from saq.job import Job
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError

from litestar_tasks.outbox.database import reason_of
from litestar_tasks.outbox.history.entries import Entry, entry

if TYPE_CHECKING:
    from litestar_tasks.outbox.history.rows import HistoryRows
    from litestar_tasks.queues.base import Moment, TaskQueue

__all__ = ("Recorder",)

logger = logging.getLogger("litestar_tasks.history")

_EVERY: Final = 0.5
"""Seconds after which what was heard is written."""
_TOGETHER: Final = 500
"""Jobs that are written in one statement. So many are not waited with."""
_AT_A_STRETCH: Final = 25
"""Jobs of which rows are made before others have their turn on the event loop."""
_ANSWER: Final = 30.0
"""Seconds that the database has for one statement."""
_LONGEST_PAUSE: Final = 2.0
_LAST: Final = 2.0
"""Seconds that writing may take at the end."""
_TIDY: Final = 60.0
_ERRORS: Final = (SQLAlchemyError, OSError, TimeoutError)

_Key = tuple[str, float]
"""A job's id, and when it was enqueued."""


class Recorder:
    """Writes what happens to jobs into the history.

    Args:
        rows: The history's rows.
        buffer: How many jobs are remembered until they are written.
        keep: Milliseconds for which jobs are kept; None for ever.
        keep_jobs: How many are kept; None for any number.
        tidying: Whether to remove what is too old, as workers do.
    """

    def __init__(
        self, rows: HistoryRows, *, buffer: int, keep: int | None, keep_jobs: int | None, tidying: bool
    ) -> None:
        self._rows = rows
        self._buffer = buffer
        self._keep = keep
        self._keep_jobs = keep_jobs
        self._tidying = tidying and (keep is not None or keep_jobs is not None)
        self._heard: dict[_Key, tuple[TaskQueue, dict[str, Any], Moment]] = {}
        self._made: dict[_Key, Entry] = {}
        """Rows that are still to be written."""
        self._turn = asyncio.Lock()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failed_since: float | None = None
        self._reason = ""
        self._lost = 0
        self._lost_since = self._lost_until = 0

    def hear(self, queue: TaskQueue, job: Job, moment: Moment) -> None:
        """Note what happened to a job; a listener of ``TaskQueue.instrument``."""
        key = (queue.job_id(job.key), job.queued)
        if moment == "enqueued" and (key in self._heard or key in self._made):
            return  # a worker of this process was quicker than the answer to the producer
        if len(self._heard) + len(self._made) >= self._buffer and key not in self._heard and key not in self._made:
            self._lose(1)
            return
        self._heard[key] = (queue, job.__dict__.copy(), moment)  # the record goes on to be changed
        if len(self._heard) == _TOGETHER:
            self._stir.set()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="history")

    async def flush(self) -> None:
        """Write all that was heard, as far as the database answers."""
        try:
            await self._write()
        except _ERRORS as error:
            self._failed(error)

    async def close(self) -> None:
        """Write what was heard, within two seconds, and stop."""
        if self._task is None:
            return
        self._closing = True
        self._stir.set()
        await asyncio.wait({self._task}, timeout=_LAST)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if lost := len(self._heard) + len(self._made) + self._lost:
            logger.error("the history lacks %d changes of jobs: its database does not answer at the end", lost)

    async def _run(self) -> None:
        tidied, pause = time.monotonic(), 0.0
        while True:
            await self._pause(pause)
            try:
                await self._write()
                if self._closing:
                    return
                if self._tidying and time.monotonic() - tidied >= _TIDY:
                    tidied = time.monotonic()
                    await self._tidy()
            except _ERRORS as error:
                self._failed(error)
                pause = min(_LONGEST_PAUSE, max(_EVERY, pause * 2))
            except Exception:
                logger.exception("an unforeseen error in the history")
                pause = _LONGEST_PAUSE
            else:
                pause = 0.0

    async def _pause(self, pause: float) -> None:
        """Wait until it is time to write; after a failure at least for so long."""
        if pause and not self._closing:
            await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(_EVERY):
                await self._stir.wait()
        except TimeoutError:
            pass
        self._stir.clear()

    async def _write(self) -> None:
        async with self._turn:
            await self._make()
            while self._made or self._lost:
                batch = dict(islice(self._made.items(), _TOGETHER))
                lost, gap = self._lost, self._gap()
                await self._insert(list(batch.values()), gap)
                self._lost -= lost
                for key, written in batch.items():
                    if self._made.get(key) is written:
                        del self._made[key]
                self._succeeded()

    async def _make(self) -> None:
        """Make rows of what was heard. This is done while the database is away, too: rows are bounded, jobs are not."""
        count = 0
        while self._heard:
            key = next(iter(self._heard))
            queue, fields, moment = self._heard.pop(key)
            job = Job.__new__(Job)
            job.__dict__ = fields
            try:
                self._made[key] = entry(job, queue.label, key[0], moment)
            except Exception:  # of a record that somebody else has written
                logger.exception("the history cannot record job %s", key[0])
                self._reason = "a record could not be read"
                self._lose(1)
            count += 1
            if count % _AT_A_STRETCH == 0:
                await asyncio.sleep(0)

    async def _insert(self, entries: Sequence[Entry], gap: Entry | None) -> None:
        """Write rows; one that the database refuses for what it says is left out, and stops no other."""
        try:
            async with asyncio.timeout(_ANSWER):
                await self._rows.write(entries, gap)
        except (OperationalError, InterfaceError, ProgrammingError):
            raise  # it is away, or its table is
        except DBAPIError as error:
            if error.connection_invalidated or not entries:
                raise
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._insert(entries[:middle], gap)
                await self._insert(entries[middle:], None)
                return
            self._reason = reason_of(error)
            logger.error("the history cannot record job %s: %s", entries[0]["id"], self._reason)
            self._lose(1)

    async def _tidy(self) -> None:
        before = None if self._keep is None else _now() - self._keep
        while await self._rows.remove(before, self._keep_jobs) and not self._closing:
            await self._write()

    def _lose(self, changes: int) -> None:
        self._lost_until = _now()
        if not self._lost:
            self._lost_since = self._lost_until
        self._lost += changes

    def _gap(self) -> Entry | None:
        if not self._lost:
            return None
        return {
            "id": token_hex(16),
            "since": self._lost_since,
            "until": self._lost_until,
            "lost": self._lost,
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "reason": self._reason or "more happened than the database could take",
        }

    def _failed(self, error: BaseException) -> None:
        self._reason = reason_of(error)
        if self._failed_since is None:
            self._failed_since = time.monotonic()
            logger.error(
                "the history's database does not answer: %s. Up to %d jobs are remembered; jobs go on",
                self._reason,
                self._buffer,
            )

    def _succeeded(self) -> None:
        if self._failed_since is None:
            return
        away = time.monotonic() - self._failed_since
        self._failed_since, self._reason = None, ""
        logger.warning("the history's database answers again, after %.1f s", away)


def _now() -> int:
    return int(time.time() * 1000)
