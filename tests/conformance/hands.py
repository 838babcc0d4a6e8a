"""The worker's part by hand, and what tests ask of a queue in one line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from saq.job import Job, Status

from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import ClaimedJob, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.operations import BulkAction, JobFilter, JobState

needs = pytest.mark.needs
"""``@needs("leases")``: only for brokers with that capability."""


class MakeQueue(Protocol):
    """The fixture ``make``."""

    async def __call__(self, label: str = "default", **options: Any) -> TaskQueue: ...


class Hand:
    """Claims what it is told to, settles it as it is told to, and notes what it is called with."""

    def __init__(self, queue: TaskQueue) -> None:
        self.queue = queue
        self.aborts: list[tuple[str, str]] = []
        self.lost: list[str] = []

    async def open(self, name: str = "hand") -> Hand:
        await self.queue.open(
            name, WorkerHooks(abort=lambda key, reason: self.aborts.append((key, reason)), lost=self.lost.extend)
        )
        return self

    async def take(self, count: int = 1) -> list[ClaimedJob]:
        """Claim exactly so many, in as many claims as it takes."""
        jobs: list[ClaimedJob] = []
        async with asyncio.timeout(20):
            while len(jobs) < count:
                jobs += await self.queue.claim(count - len(jobs))
        return jobs

    async def one(self) -> ClaimedJob:
        (job,) = await self.take()
        return job

    async def end(self, job: ClaimedJob, how: Settlement = Settlement.COMPLETE, **fields: Any) -> bool:
        """Settle a job for good."""
        status = {Settlement.COMPLETE: Status.COMPLETE, Settlement.ABORTED: Status.ABORTED}.get(how, Status.FAILED)
        job.status, job.attempts, job.completed = status, job.attempts + 1, millis()
        for name, value in fields.items():
            setattr(job, name, value)
        return await self.queue.settle(job, how)

    async def fail(self, job: ClaimedJob, error: str = "Traceback\nValueError: broken") -> bool:
        return await self.end(job, Settlement.FAILED, error=error)

    async def retry(self, job: ClaimedJob, delay: float = 0) -> bool:
        job.status, job.attempts, job.started, job.error = Status.QUEUED, job.attempts + 1, 0, "ValueError: again"
        return await self.queue.settle(job, Settlement.RETRY, delay=delay)

    async def snooze(self, job: ClaimedJob, delay: float = 0) -> bool:
        job.status, job.started = Status.QUEUED, 0
        return await self.queue.settle(job, Settlement.SNOOZE, delay=delay)

    async def hand_back(self, job: ClaimedJob) -> bool:
        job.status, job.started, job.worker_id = Status.QUEUED, 0, None
        return await self.queue.settle(job, Settlement.HAND_BACK)

    async def finish(self, *keys: str, how: Settlement = Settlement.COMPLETE) -> None:
        """Enqueue jobs under these keys and settle them in this order, each at a moment of its own."""
        await enqueue(self.queue, *keys)
        for job in await self.take(len(keys)):
            await self.end(job, how)
            await next_millisecond()


def spec(key: str | None = None, *, task: str = "noop", delay: float = 0, **options: Any) -> JobSpec:
    run_at = datetime.now(UTC) + timedelta(seconds=delay) if delay else None
    return JobSpec(task=task, key=key, kwargs=options.pop("kwargs", {}), run_at=run_at, **options)


async def enqueue(queue: TaskQueue, *keys: str, **options: Any) -> None:
    """Enqueue a job under each key, in order."""
    await queue.submit_many([spec(key, **options) for key in keys])


def keys_of(jobs: Sequence[Job]) -> list[str]:
    return [job.key for job in jobs]


async def record(queue: TaskQueue, key: str) -> Job:
    job = await queue.job(key)
    assert job is not None, f"there is no job {key!r}"
    return job


async def listed(queue: TaskQueue, state: JobState, *, limit: int = 500, **options: Any) -> list[str]:
    """The keys of a whole listing, page by page."""
    which, found, cursor = JobFilter(state=state, **options), [], None
    while True:
        page = await queue.page(which, limit=limit, cursor=cursor)
        assert len(page.jobs) <= limit
        found += keys_of(page.jobs)
        if (cursor := page.cursor) is None:
            return found


async def act(queue: TaskQueue, action: BulkAction, state: JobState, *, limit: int = 200, **options: Any) -> int:
    """Carry an operation on many jobs to its end, and return how many there were."""
    which, done, cursor = JobFilter(state=state, **options), 0, None
    for _ in range(1000):
        step = await queue.bulk(action, which, limit=limit, cursor=cursor)
        assert 0 <= step.done + step.skipped <= limit
        done += step.done
        if (cursor := step.cursor) is None:
            return done
    raise AssertionError("the operation did not come to an end")


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 40.0) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)


async def stands(queue: TaskQueue, key: str, *statuses: str | None) -> None:
    """Wait until a job has one of these statuses."""

    async def has() -> bool:
        return await queue.status(key) in statuses

    await eventually(has)


async def next_millisecond() -> None:
    """Let the clock move on, so that what happens now and then is told apart."""
    now = millis()
    await asyncio.sleep(0.002)
    assert millis() > now


def millis() -> int:
    return int(time.time() * 1000)
