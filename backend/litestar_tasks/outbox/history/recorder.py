"""Hears what happens to jobs in this process, and writes it down, off everybody's way."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from saq.job import Job
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from litestar_tasks.outbox.database import is_away, reason_of
from litestar_tasks.outbox.history.entries import Entry, entry

if TYPE_CHECKING:
    from litestar_tasks.outbox.history.rows import HistoryRows
    from litestar_tasks.outbox.outage import Outage
    from litestar_tasks.queues.base import Moment, TaskQueue

__all__ = ("Recorder",)

logger = logging.getLogger("litestar_tasks.history")

_EVERY: Final = 0.5
"""Seconds after which what was heard is written."""
_TOGETHER: Final = 500
"""Jobs that are written in one statement. So many are not waited with."""
_AT_MOST: Final = 2_000
"""Jobs that are written in one statement where more wait."""
_SHARE: Final = 0.1
"""Of the time, what writing may take while jobs go on: it shares the process, and often the machine, with them."""
_HELD: Final = 5.0
"""Seconds for which rows may wait because of that."""
_FULL: Final = 0.5
"""Of the buffer, the part from which on they do not."""
_ANSWER: Final = 30.0
"""Seconds that the database has for one statement."""
_LONGEST_PAUSE: Final = 2.0
_LAST: Final = 2.0
"""Seconds that writing may take at the end."""
_TIDY: Final = 60.0
_REFUSED: Final = ("22", "23", "54")
"""Classes of SQLSTATE that say something of a row: its data, a constraint, a limit."""

_Key = tuple[str, float]
"""A job's id, and when it was enqueued."""


class Recorder:
    """Writes what happens to jobs into the history.

    Args:
        rows: The history's rows.
        outage: What is known of the way to the database.
        buffer: How many jobs are remembered until they are written.
        keep: Milliseconds for which jobs are kept; None for ever.
        keep_jobs: How many are kept; None for any number.
        tidying: Whether to remove what is too old, as workers do.
    """

    def __init__(
        self,
        rows: HistoryRows,
        outage: Outage,
        *,
        buffer: int,
        keep: int | None,
        keep_jobs: int | None,
        tidying: bool,
    ) -> None:
        self._rows = rows
        self._outage = outage
        self._buffer = buffer
        self._keep = keep
        self._keep_jobs = keep_jobs
        self._tidying = tidying and (keep is not None or keep_jobs is not None)
        self._waiting: dict[_Key, tuple[float, Entry]] = {}
        """Rows that are still to be written, and when each was first heard of, in the order of that."""
        self._heard = 0
        """How much was heard since somebody looked."""
        self._turn = asyncio.Lock()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._lost = 0
        self._lost_since = self._lost_until = 0
        self._lost_by = ""
        """What made it lose something, other than that the buffer was full."""

    def hear(self, queue: TaskQueue, job: Job, moment: Moment) -> None:
        """Note what happened to a job; a listener of ``TaskQueue.instrument``."""
        # A row is made at once: it is bounded, as a job is not, and the record goes on to be changed.
        key = (queue.job_id(job.key), job.queued)
        known = self._waiting.get(key)
        if known is None:
            if len(self._waiting) >= self._buffer:
                self._lose()
                return
        elif moment == "enqueued":
            return  # a worker of this process was quicker than the answer to the producer
        try:
            row = entry(job, queue.label, key[0], moment)
        except Exception:  # of a record that somebody else has written
            logger.exception("the history cannot record job %s", key[0])
            self._lose("a record could not be read")
            return
        self._waiting[key] = (time.monotonic() if known is None else known[0], row)
        self._heard += 1
        if self._heard == _TOGETHER:
            self._stir.set()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="history")

    async def flush(self) -> None:
        """Write all that was heard, as far as the database answers."""
        try:
            for _ in range(0, len(self._waiting) + 1, _AT_MOST):
                await self._write()
            if self._lost:
                await self._write()
        except Exception as error:
            if not is_away(error):
                raise
            self._outage.failed(error)

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
        if lost := len(self._waiting) + self._lost:
            logger.error("the history lacks %d changes of jobs: its database does not answer at the end", lost)

    async def _run(self) -> None:
        tidied, pause = time.monotonic(), 0.0
        while True:
            if len(self._waiting) < _TOGETHER:
                await self._stirred(_EVERY)
            began = time.monotonic()
            try:
                await self._write()
                if self._closing and not (self._waiting or self._lost):
                    return
                if self._tidying and time.monotonic() - tidied >= _TIDY:
                    tidied = time.monotonic()
                    await self._tidy()
            except Exception as error:
                if is_away(error):
                    self._outage.failed(error)
                    pause = min(_LONGEST_PAUSE, max(_EVERY, pause * 2))
                else:
                    logger.exception("an unforeseen error in the history")
                    pause = _LONGEST_PAUSE
                await asyncio.sleep(_EVERY if self._closing else pause)
            else:
                pause = 0.0
                await self._rest((time.monotonic() - began) * (1 / _SHARE - 1))

    async def _stirred(self, seconds: float) -> None:
        """Wait until enough was heard to be written, or for so long."""
        self._heard = 0
        self._stir.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._closing else seconds):
                await self._stir.wait()

    async def _rest(self, seconds: float) -> None:
        """Leave the time to jobs, as long as there are any, and what is still to be written can wait."""
        until = time.monotonic() + seconds
        while self._heard and not self._closing and len(self._waiting) < self._buffer * _FULL:
            now = time.monotonic()
            oldest = next((since for since, _ in self._waiting.values()), now)
            if (left := min(until, oldest + _HELD) - now) <= 0:
                return
            await self._stirred(min(left, _EVERY))

    async def _write(self) -> None:
        """Write the first of what waits."""
        async with self._turn:
            if not (self._waiting or self._lost):
                return
            batch = dict(islice(self._waiting.items(), _AT_MOST))
            lost, gap = self._lost, self._gap()
            await self._insert([row for _, row in batch.values()], gap)
            self._lost -= lost
            for key, written in batch.items():
                if self._waiting.get(key) is written:
                    del self._waiting[key]
            self._outage.succeeded()

    async def _insert(self, entries: Sequence[Entry], gap: Entry | None) -> None:
        """Write rows; one that the database refuses for what it says is left out, and stops no other."""
        try:
            async with asyncio.timeout(_ANSWER):
                await self._rows.write(entries, gap)
        except DBAPIError as error:
            if not (entries and _refuses(error)):
                raise
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._insert(entries[:middle], gap)
                await self._insert(entries[middle:], None)
                return
            reason = reason_of(error)
            logger.error("the history cannot record job %s: %s", entries[0]["id"], reason)
            self._lose(reason)

    async def _tidy(self) -> None:
        before = None if self._keep is None else _now() - self._keep
        while await self._rows.remove(before, self._keep_jobs) and not self._closing:
            await self._write()

    def _lose(self, by: str = "") -> None:
        self._lost_until = _now()
        if not self._lost:
            self._lost_since, self._lost_by = self._lost_until, ""
        self._lost += 1
        self._lost_by = by or self._lost_by

    def _gap(self) -> Entry | None:
        if not self._lost:
            return None
        return {
            "id": token_hex(16),
            "since": self._lost_since,
            "until": self._lost_until,
            "lost": self._lost,
            "process": f"{socket.gethostname()}:{os.getpid()}",
            "reason": self._lost_by or self._outage.reason or "more happened than the database could take",
        }


def _refuses(error: DBAPIError) -> bool:
    """Whether the database refuses a row for what it says, rather than to write anything now."""
    if isinstance(error, IntegrityError | DataError):
        return True
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_REFUSED)


def _now() -> int:
    return int(time.time() * 1000)
