"""Jobs in the memory of one process: for tests, and for trying things out. They are lost with it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
from saq.job import TERMINAL_STATUSES, Job, Status
from saq.queue.base import Queue
from saq.types import CountKind, QueueInfo, WorkerInfo

from litestar_tasks.job import JobStatus, Submission, status_of
from litestar_tasks.queues.base import ClaimedJob, Settlement, TaskQueue, WorkerHooks

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("MemoryQueue",)

_TAIL = itertools.count(1)
_HEAD = itertools.count(-1, -1)
_IDLE = 1.0


class MemoryQueue(TaskQueue):
    """A queue that behaves like the others and survives nothing.

    Records are kept as JSON, so what cannot be stored elsewhere cannot be stored here. One worker, one event loop.

    Args:
        label: The queue's name.
        namespace: A prefix for its name on the wire. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
    """

    def __init__(self, label: str = "default", *, namespace: str = "", registry: Registry | None = None) -> None:
        Queue.__init__(
            self,
            name=f"{namespace}.{label}" if namespace else label,
            dump=msgspec.json.encode,
            load=msgspec.json.decode,
        )
        self.label = label
        self.registry = cast("Registry", registry)
        self._records: dict[str, bytes] = {}
        self._expires: dict[str, float] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._due: list[tuple[float, str]] = []
        self._waiting: dict[
            str, float
        ] = {}  # key -> when it is due; 0 for now. What the heaps hold beside it is stale.
        self._active: dict[str, ClaimedJob] = {}
        self._tokens = itertools.count(1)
        self._changed = asyncio.Condition()
        self._hooks: WorkerHooks | None = None
        self._workers: dict[str, WorkerInfo] = {}

    def __repr__(self) -> str:
        return f"<MemoryQueue {self.name!r}>"

    def job_id(self, job_key: str) -> str:
        """The id in the form that SAQ gives it on Redis."""
        return f"saq:job:{self.name}:{job_key}"

    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """See ``TaskQueue.store``."""
        self._prune()
        known = job.key in self._waiting or job.key in self._active
        if known or (once and job.key in self._records):
            return Submission(cast("Job", await self.job(job.key)), deduplicated=True)
        self._write(job)
        self._expires.pop(job.key, None)
        await self._wait_for(job, until=job.scheduled)
        return Submission(job)

    async def job(self, job_key: str) -> Job | None:
        """A job's record, or None."""
        self._prune()
        return self.deserialize(self._records.get(job_key))

    async def jobs(self, job_keys: Iterable[str]) -> list[Job | None]:
        """The records of several jobs."""
        return [await self.job(key) for key in job_keys]

    async def status(self, key: str) -> JobStatus | None:
        """See ``TaskQueue.status``."""
        job = await self.job(key)
        return status_of(job, due=self._waiting.get(key, 0)) if job else None

    async def wait(self, key: str, timeout: float | None) -> Job | None:
        """See ``TaskQueue.wait``."""
        async with asyncio.timeout(timeout):
            while (job := await self.job(key)) is not None and job.status not in TERMINAL_STATUSES:
                async with self._changed:
                    await self._changed.wait()
        return job

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``."""
        if key in self._active:
            if self._hooks is not None:
                self._hooks.abort(key, reason)
            return True
        if key not in self._waiting:
            return False
        job = cast("Job", await self.job(key))
        del self._waiting[key]
        job.status, job.error, job.completed = Status.ABORTED, reason, _millis()
        await self._end(job)
        return True

    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """See ``TaskQueue.open``."""
        self._worker_id, self._hooks = worker_id, hooks

    async def claim(self, limit: int) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        claimed = self._claim(limit)
        if not claimed and limit > 0:
            pause = min([_IDLE, *(max(0.0, moment - time.time()) for moment, _ in self._due[:1])])
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes together with the notification.
            with suppress(TimeoutError):
                async with asyncio.timeout(pause), self._changed:
                    await self._changed.wait()
            claimed = self._claim(limit)
        return claimed

    async def settle(self, job: ClaimedJob, settlement: Settlement, *, delay: float = 0.0) -> bool:
        """See ``TaskQueue.settle``."""
        if (held := self._active.get(job.key)) is None or held.token != job.token:
            return False
        del self._active[job.key]
        if settlement in (Settlement.RETRY, Settlement.SNOOZE):
            self._write(job)
            await self._wait_for(job, until=time.time() + delay if delay > 0 else 0)
        elif settlement is Settlement.HAND_BACK:
            self._write(job)
            await self._wait_for(job, at_head=True)
        else:
            await self._end(job)
        return True

    async def close(self, *, keep: Collection[str] = ()) -> None:
        """See ``TaskQueue.close``."""
        for job in [job for key, job in reversed(self._active.items()) if key not in keep]:
            job.status, job.started, job.worker_id = Status.QUEUED, 0, None
            await self.settle(job, Settlement.HAND_BACK)
        self._hooks = None

    async def disconnect(self) -> None:
        """Nothing is connected."""

    async def count(self, kind: CountKind) -> int:
        """How many jobs wait, run, or either."""
        now = time.time()
        queued = sum(due <= now for due in self._waiting.values())
        return {"queued": queued, "active": len(self._active)}.get(kind, len(self._waiting) + len(self._active))

    async def info(self, jobs: bool = False, offset: int = 0, limit: int = 10) -> QueueInfo:
        """SAQ's summary of the queue."""
        queued, active = await self.count("queued"), await self.count("active")
        keys = [*self._active, *self._waiting][offset : offset + limit] if jobs else []
        return {
            "workers": self._workers,
            "name": self.name,
            "queued": queued,
            "active": active,
            "scheduled": len(self._waiting) - queued,
            "jobs": [job.to_dict() for job in await self.jobs(keys) if job],
        }

    async def iter_jobs(self, statuses: list[Status] = list(Status), batch_size: int = 100) -> AsyncIterator[Job]:  # noqa: B006  # SAQ's default
        """Every job in one of these states."""
        for key in list(self._records):
            job = await self.job(key)
            if job is not None and job.status in statuses:
                yield job

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Nothing is ever stuck: the jobs and their worker end together."""
        return []

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Remember what a worker says of itself."""
        self._workers[worker_id] = info

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """SAQ's way of claiming one job."""
        deadline = time.monotonic() + timeout if timeout else None
        while not (claimed := await self.claim(1)):
            if deadline is not None and time.monotonic() >= deadline:
                return None
        return claimed[0]

    async def _update(self, job: Job, status: Status | None = None, **kwargs: Any) -> None:
        held = self._active.get(job.key)
        if held is not None:
            self._write(job)
            await self._notify()

    async def _retry(self, job: Job, error: str | None) -> None:
        if job.key in self._active:
            raise ValueError(f"job {job.id!r} is running; only a finished job can be run again")
        job.attempts = 0
        self._write(job)
        self._expires.pop(job.key, None)
        await self._wait_for(job)

    async def _finish(self, job: Job, status: Status, *, result: Any = None, error: str | None = None) -> None:
        self._active.pop(job.key, None)
        await self._end(job)

    async def _enqueue(self, job: Job) -> Job | None:
        submission = await self.store(job)
        return None if submission.deduplicated else submission.job

    def _claim(self, limit: int) -> list[ClaimedJob]:
        now = time.time()
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            if self._waiting.get(key) == due:
                job = cast("Job", self.deserialize(self._records[key]))
                self._waiting[key] = 0
                heapq.heappush(self._ready, (job.priority, next(_TAIL), key))
        claimed: list[ClaimedJob] = []
        while self._ready and len(claimed) < limit:
            _, _, key = heapq.heappop(self._ready)
            if self._waiting.get(key) != 0:
                continue
            del self._waiting[key]
            document = self._load(self._records[key])
            document.pop("queue")
            job = ClaimedJob(**document, queue=self)
            job.token = next(self._tokens)
            job.status, job.started, job.worker_id = Status.ACTIVE, _millis(), self._worker_id
            self._write(job)
            self._active[key] = job
            claimed.append(job)
        return claimed

    async def _wait_for(self, job: Job, *, until: float = 0, at_head: bool = False) -> None:
        if until > time.time():
            self._waiting[job.key] = until
            heapq.heappush(self._due, (until, job.key))
        else:
            self._waiting[job.key] = 0
            heapq.heappush(self._ready, (job.priority, next(_HEAD if at_head else _TAIL), job.key))
        await self._notify()

    async def _end(self, job: Job) -> None:
        if job.ttl < 0:
            self._records.pop(job.key, None)
        else:
            self._write(job)
            if job.ttl:
                self._expires[job.key] = time.time() + job.ttl
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _write(self, job: Job) -> None:
        self._records[job.key] = cast("bytes", self.serialize(job))

    def _prune(self) -> None:
        now = time.time()
        for key in [key for key, moment in self._expires.items() if moment <= now]:
            del self._expires[key]
            self._records.pop(key, None)


def _millis() -> int:
    return int(time.time() * 1000)
