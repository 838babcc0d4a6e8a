"""The running job as its own task sees it: what it can ask, and what it can say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sized
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from litestar_tasks.correlation import CORRELATION
from litestar_tasks.exceptions import JobError
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import LOG, MESSAGE, JobQueue
from litestar_tasks.redaction import without_known

if TYPE_CHECKING:
    from saq.job import Job

__all__ = ("CurrentJob", "Track", "track")

logger = logging.getLogger("litestar_tasks.worker")

T = TypeVar("T")

_EVERY: Final = 0.5
"""Seconds between two writes of what a job says."""
_LAST_WRITE: Final = 5.0
_LINES: Final = 100
_LINE: Final = 1_000
"""Characters of a line of a job's log, and of its message."""


class CurrentJob(JobHandle[Any]):
    """The job that is running: a task gets it by annotating a parameter with this class.

    What it says of itself is written at most every half second, whatever is said in between; the last of it is in the
    record when the job ends. An outage of the broker does not hold the task up.
    """

    __slots__ = ("_job", "_reports")

    def __init__(self, queue: JobQueue, job: Job) -> None:
        super().__init__(queue, job.key)
        self._job = job
        self._reports = _Reports(job)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self._job.function

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        return self._job.attempts + 1

    @property
    def correlation_id(self) -> str | None:
        """What ties it to the request or the job that enqueued it; None where nothing does."""
        found = (self._job.meta or {}).get(CORRELATION)
        return found if isinstance(found, str) else None

    @property
    def meta(self) -> dict[str, Any]:
        """What travels with the job beside its payload, such as what an ``on_enqueue`` hook has added. A copy."""
        return dict(self._job.meta or {})

    @property
    def parent_id(self) -> str | None:
        """The id of the job that this one follows; None where it was not enqueued as a follow-up.

        ``registry.job(id)`` makes a handle of it, for as long as its record is kept.
        """
        found = (self._job.meta or {}).get(PARENT)
        return found if isinstance(found, str) else None

    @property
    def fencing_token(self) -> int:
        """A number that grows with each claim of the job, to fence your own writes: refuse one with a smaller number.

        On Redis it is the server's clock in milliseconds, on Postgres a sequence.
        """
        return int(getattr(self._job, "fence", 0))

    @property
    def lost(self) -> bool:
        """Whether this run does not count any more: its worker was taken for lost, and the job runs elsewhere.

        A coroutine is cancelled then; a sync task, which cannot be, may look here from time to time.
        """
        return bool(getattr(self._job, "lost", False))

    async def set_progress(self, fraction: float, message: str | None = None) -> None:
        """Say how far the task has come.

        Args:
            fraction: From 0.0 to 1.0; what lies outside is clamped.
            message: What it is doing, up to 1,000 characters. Defaults to None: what was said before stays.
        """
        self.set_progress_sync(fraction, message)
        await self._reports.take_turn()

    async def log(self, text: str) -> None:
        """Add a line to the job's log, which its record keeps: the last 100 lines, of up to 1,000 characters each.

        Args:
            text: The line.
        """
        self.log_sync(text)
        await self._reports.take_turn()

    def set_progress_sync(self, fraction: float, message: str | None = None) -> None:
        """``set_progress`` from a sync task."""
        job = self._job
        job.progress = min(1.0, max(0.0, fraction))
        if message is not None:
            job.meta = {**(job.meta or {}), MESSAGE: without_known(message)[:_LINE]}
        self._reports.changed()

    def log_sync(self, text: str) -> None:
        """``log`` from a sync task."""
        meta = self._job.meta or {}
        line = {"at": int(time.time() * 1000), "text": without_known(text)[:_LINE]}
        self._job.meta = {**meta, LOG: [*meta.get(LOG, ()), line][-_LINES:]}
        self._reports.changed()

    async def _ended(self, timeout: float | None) -> Job:
        if timeout != 0:
            raise JobError(
                self.id,
                f"job {self.id!r} waits for its own end, which does not come before the waiting is over; return from "
                "the task instead",
            )
        return await super()._ended(timeout)

    async def close(self) -> None:
        """Say no more: the attempt has ended. The worker does this, and writes the last word with the outcome."""
        await self._reports.close()


class _Reports:
    """Writes a running job's record anew, at most every so often. May be told of changes by any thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._news = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Take note that there is something to write."""
        if self._news or self._closed:
            return
        self._news = True
        if _running_loop() is self._loop:
            self._plan()
        else:
            self._loop.call_soon_threadsafe(self._plan)

    async def take_turn(self) -> None:
        """Let the event loop do its work where a write is due, so that a busy task does not keep it from that."""
        if self._news and _running_loop() is self._loop and self._loop.time() >= self._due:
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Begin no further write, and wait for the one that is under way: it must not come after the outcome."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_LAST_WRITE)

    def _plan(self) -> None:
        if self._timer is None and self._writing is None and not self._closed:
            if self._loop.time() >= self._due:
                self._write()
            else:
                self._timer = self._loop.call_at(self._due, self._write)

    def _write(self) -> None:
        self._timer = None
        self._news = False
        self._due = self._loop.time() + _EVERY
        self._writing = self._loop.create_task(self._update(), name="progress")
        self._writing.add_done_callback(self._written)

    async def _update(self) -> None:
        try:
            await self._job.update(progress=self._job.progress, meta=self._job.meta)
        except Exception as error:  # a report that is missed costs nothing
            logger.debug("job %s could not report: %s", self._job.id, error)

    def _written(self, _: asyncio.Task[None]) -> None:
        self._writing = None
        if self._news:
            self._plan()


class Track(Generic[T]):
    """An iterable that says how far its reader has come. Made by ``track``."""

    def __init__(self, items: Iterable[T] | AsyncIterable[T], job: CurrentJob, total: int) -> None:
        self._items = items
        self._job = job
        self._total = max(1, total)

    def __iter__(self) -> Generator[T, None, None]:
        if not isinstance(self._items, Iterable):
            raise TypeError(f"{type(self._items).__name__} can only be read by async for: async for … in track(…)")
        for done, item in enumerate(self._items):
            self._job.set_progress_sync(done / self._total)
            yield item
        self._job.set_progress_sync(1.0)

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        done = 0
        async for item in _read(self._items):
            await self._job.set_progress(done / self._total)
            yield item
            done += 1
        await self._job.set_progress(1.0)


def track(items: Iterable[T] | AsyncIterable[T], job: CurrentJob, total: int | None = None) -> Track[T]:
    """Say how far the task has come by how many of the items it has read.

    ``async for row in track(rows, job): …``, and in sync tasks ``for row in track(rows, job): …``.

    Args:
        items: What is read. ``async for`` also takes what is not asynchronous.
        job: The running job.
        total: How many items there are. Defaults to None: ``len(items)``.

    Raises:
        TypeError: Without a total, and with items that have no length.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise TypeError(f"track() cannot tell how many items a {type(items).__name__} has; pass total=")
        total = len(items)
    return Track(items, job, total)


async def _read(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
