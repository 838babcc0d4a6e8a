"""The queue in memory, as producers, readers and its worker use it."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from saq.job import TERMINAL_STATUSES, Job, Status
from saq.queue.base import Queue
from saq.types import CountKind, ListenCallback, QueueInfo, WorkerInfo
from saq.utils import now

from litestar_tasks.job import JobStatus, Submission, status_of
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, Delivery, Settlement, WorkerHooks
from litestar_tasks.queues.compatible import CompatibleQueue
from litestar_tasks.queues.following import has_follow_ups
from litestar_tasks.queues.locks import lock_of
from litestar_tasks.queues.memory.operations import MemoryOperations
from litestar_tasks.queues.memory.schedules import MemorySchedules
from litestar_tasks.queues.memory.state import State
from litestar_tasks.queues.operations import Capability, JobState
from litestar_tasks.queues.producing import check_texts
from litestar_tasks.queues.reports import living
from litestar_tasks.queues.retention import record_ttl

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry
    from litestar_tasks.uniqueness import Lock

__all__ = ("MemoryQueue",)

_IDLE: Final = 1.0
_LISTED: Final[dict[Settlement, tuple[JobState, ...]]] = {
    Settlement.COMPLETE: ("complete",),
    Settlement.FAILED: ("failed",),
    Settlement.ABORTED: ("aborted",),
    Settlement.QUARANTINED: ("failed", "quarantined"),
}


class MemoryQueue(CompatibleQueue):
    """A queue that behaves like the others and survives nothing.

    Records are kept as JSON, so what cannot be stored elsewhere cannot be stored here. One worker, one event loop.

    Args:
        label: The queue's name.
        namespace: A prefix for its name on the wire. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
        keep_complete: Records of complete jobs that are kept at the most. Defaults to 10,000.
        keep_failed: Records of failed, and as many of aborted, jobs. Defaults to 100,000.
    """

    capabilities: frozenset[Capability] = frozenset({"priorities", "pause", "listing", "bulk", "metrics"})

    def __init__(
        self,
        label: str = "default",
        *,
        namespace: str = "",
        registry: Registry | None = None,
        keep_complete: int = 10_000,
        keep_failed: int = 100_000,
    ) -> None:
        name = f"{namespace}.{label}" if namespace else label
        Queue.__init__(self, name=name, dump=msgspec.json.encode, load=records.decode)
        self.label = label
        self.registry = cast("Registry", registry)
        self._keep: dict[JobState, int] = {
            "complete": keep_complete,
            "failed": keep_failed,
            "aborted": keep_failed,
        }
        self._state = State()
        self._active: dict[str, ClaimedJob] = {}
        self._aborts: dict[str, str] = {}
        self._heeded: set[str] = set()
        """Rows of an outbox."""
        self._tokens = itertools.count(1)
        self._changed = asyncio.Condition()
        self._followers: list[Callable[[], None]] = []
        self._hooks: WorkerHooks | None = None
        self._opening = asyncio.Lock()
        self._workers: dict[str, WorkerInfo] = {}
        self._operations = MemoryOperations(self, self._state, self._notify)
        self.schedules = MemorySchedules(self.store)

    def __repr__(self) -> str:
        return f"<MemoryQueue {self.name!r}>"

    # The producer's side

    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """See ``TaskQueue.store``."""
        check_texts(job)
        state = self._state
        state.expire()
        known = state.waits(job.key) or job.key in self._active
        if known or (once and job.key in state.records):
            return Submission(cast("Job", await self.job(job.key)), deduplicated=True)
        lock = lock_of(job)
        if lock is not None and (holder := state.locks.holder(lock)) is not None:
            if lock.debounce:
                await self._replace(job, lock, *holder)
            found = await self.job(holder[0])
            return Submission(found or Job(job.function, queue=self, key=holder[0]), deduplicated=True)
        await self._keep_waiting(job, lock)
        return Submission(job)

    async def _keep_waiting(self, job: Job, lock: Lock | None) -> None:
        self._write(job)
        self._state.revive(job.key)
        self._state.leave(job.key)
        self._state.locks.take(job.key, lock, job.group_key)
        self._state.make_wait(job.key, job.priority, until=job.scheduled)
        await self._notify()

    async def _replace(self, job: Job, lock: Lock, key: str, deadline: float) -> None:
        """Give a job that waits the arguments of a later call, and put it off."""
        job.key = key
        if deadline:
            job.scheduled = cast("int", min(job.scheduled, deadline))  # SAQ says int, and means seconds
        await self._keep_waiting(job, replace(lock, deadline=deadline))

    # The outbox's side

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See ``TaskQueue.deliver``."""
        for one in deliveries:
            if one.row not in self._heeded:
                self._heeded.add(one.row)
                await self.store(one.job, once=one.once)

    async def incarnation(self) -> None:
        """See ``TaskQueue.incarnation``."""

    async def release(self, rows: Sequence[str]) -> None:
        """See ``TaskQueue.release``. Nobody else could have read them for this queue."""
        self._heeded.difference_update(rows)

    # The reader's side

    async def job(self, job_key: str) -> Job | None:
        """A job's record, or None."""
        self._state.expire()
        return self.deserialize(self._state.records.get(job_key))

    async def jobs(self, job_keys: Iterable[str]) -> list[Job | None]:
        """The records of several jobs."""
        return [await self.job(key) for key in job_keys]

    async def status(self, key: str) -> JobStatus | None:
        """See ``TaskQueue.status``."""
        job = await self.job(key)
        if job is None or job.status in TERMINAL_STATUSES:
            return status_of(job) if job else None
        if key in self._active:
            return "active"
        return "scheduled" if (self._state.scheduled.by(key) or 0) > time.time() else "queued"

    async def _wait(self, key: str) -> Job | None:
        while (job := await self.job(key)) is not None and job.status not in TERMINAL_STATUSES:
            async with self._changed:
                await self._changed.wait()
        return job

    @asynccontextmanager
    async def following(self, key: str, changed: Callable[[], None]) -> AsyncGenerator[None, None]:
        """See ``TaskQueue.following``. It is called for changes of all jobs."""
        self._followers.append(changed)
        try:
            yield
        finally:
            self._followers.remove(changed)

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``."""
        if key in self._active:
            self._aborts[key] = reason
            if self._hooks is not None:
                self._hooks.abort(key, reason)
            return True
        if not self._state.waits(key):
            return False
        self._state.leave(key)
        job = cast("Job", await self.job(key))
        await self._end_aborted(job, reason)
        if self.listeners:
            await self._tell_aborted(key)
        return True

    def _held(self, job: Job) -> ClaimedJob | None:
        return held if (held := self._active.get(job.key)) is job else None

    async def _rewrite(self, job: ClaimedJob) -> None:
        self._write(job)
        await self._notify()

    async def _patch(self, key: str, fields: dict[str, Any]) -> None:
        if self._state.waits(key) or key in self._active:
            record = {**self._load(self._state.records[key]), **fields}
            self._state.records[key] = cast("bytes", self._dump(record))
            await self._notify()

    async def count(self, kind: CountKind) -> int:
        """How many jobs wait, run, or either."""
        self._state.start_due()
        queued, active = len(self._state.queued), len(self._active)
        return {"queued": queued, "active": active}.get(kind, queued + active + len(self._state.scheduled))

    async def info(self, jobs: bool = False, offset: int = 0, limit: int = 10) -> QueueInfo:
        """SAQ's summary of the queue; active jobs come first among ``jobs``."""
        queued, active = await self.count("queued"), await self.count("active")
        state = self._state
        orders = (order.walk(down=False, after=None) for order in (state.active, state.queued, state.scheduled))
        keys = [key for _, key in itertools.islice(itertools.chain(*orders), offset, offset + limit)] if jobs else []
        return {
            "workers": living(self._workers),
            "name": self.name,
            "queued": queued,
            "active": active,
            "scheduled": len(state.scheduled),
            "jobs": [job.to_dict() for job in await self.jobs(keys) if job],
        }

    async def iter_jobs(self, statuses: list[Status] = list(Status), batch_size: int = 100) -> AsyncIterator[Job]:  # noqa: B006  # SAQ's default
        """Every job in one of these states."""
        for key in list(self._state.records):
            job = await self.job(key)
            if job is not None and job.status in statuses:
                yield job

    async def listen(
        self,
        job_keys: Iterable[str],
        callback: ListenCallback,
        timeout: float | None = 10,
        poll_interval: float = 0.5,
    ) -> None:
        """Call back with each change of status of these jobs, as on the other brokers."""
        keys, told = list(job_keys), dict[str, Status]()
        async with asyncio.timeout(timeout or None):
            while True:
                for job in await self.jobs(keys):
                    if job is None or told.get(job.key, Status.QUEUED) is job.status:
                        continue
                    told[job.key] = job.status
                    answer: Any = callback(job.key, job.status)
                    if await answer if inspect.isawaitable(answer) else answer:
                        return
                async with self._changed:
                    await self._changed.wait()

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Nothing is ever stuck: the jobs and their worker end together."""
        return []

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Remember what a worker says of itself."""
        self._workers[worker_id] = info

    async def worker_infos(self) -> dict[str, WorkerInfo]:
        """See ``TaskQueue.worker_infos``."""
        return self._workers

    # The worker's side

    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """See ``TaskQueue.open``.

        Raises:
            RuntimeError: The queue is open already.
        """
        if self._hooks is not None:
            raise RuntimeError(f"queue {self.name!r} is open already; a queue in memory has one worker")
        self._worker_id, self._hooks = worker_id, hooks

    def _is_open(self) -> bool:
        return self._hooks is not None

    async def claim(self, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        claimed = self._claim(limit)
        if not claimed and limit > 0:
            due = self._state.scheduled.first()
            pause = _IDLE if due is None or self._state.pause else min(_IDLE, max(0.0, due - time.time()))
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
        self._write(job)  # first, as a job that cannot be stored is to be held still
        self._release(job.key)
        reason = self._aborts.pop(job.key, None)
        if settlement in _LISTED:
            await self._end(job, settlement)
        elif reason is not None:  # somebody wants it ended, and it does not run any more
            await self._end_aborted(job, reason)
        else:
            job.status, job.started, job.worker_id = Status.QUEUED, 0, None
            self._write(job)
            at_head = settlement is Settlement.HAND_BACK
            self._state.make_wait(
                job.key,
                job.priority,
                until=time.time() + delay if delay > 0 and not at_head else 0,
                at_head=at_head,
                again=settlement is Settlement.RETRY or bool(job.attempts),
            )
        await self._notify()
        return True

    async def close(self, *, keep: Collection[str] = ()) -> None:
        """See ``TaskQueue.close``."""
        for key in [key for _, key in self._state.active.walk(down=True, after=None) if key not in keep]:
            job = self._active[key]
            if job.meta.get("at_most_once"):
                job.status, job.completed = Status.FAILED, now()
                job.error = "its worker was stopped while it ran, and it must not be started twice"
                await self.settle(job, Settlement.FAILED)
            else:
                await self.settle(job, Settlement.HAND_BACK)
        self._hooks = None

    async def disconnect(self) -> None:
        """Nothing is connected."""

    # Details

    def _claim(self, limit: int) -> list[ClaimedJob]:
        state = self._state
        if state.pause is not None:
            return []
        state.start_due()
        claimed: list[ClaimedJob] = []
        for key in self._admitted(limit):
            state.locks.start(key)
            document = self._load(state.records[key])
            document.pop("queue")
            job = ClaimedJob(**document, queue=self)
            job.token = job.fence = next(self._tokens)
            job.status, job.started, job.worker_id = Status.ACTIVE, now(), self._worker_id
            self._write(job)
            self._active[key] = job
            state.active.put(key, job.token)
            claimed.append(job)
        return claimed

    def _admitted(self, limit: int) -> list[str]:
        state = self._state
        if not state.locks.grouped:
            return state.queued.take(limit)
        keys = state.locks.admitted(state.queued.keys(), self._active, limit)
        for key in keys:
            state.queued.drop(key)
        return keys

    def _release(self, key: str) -> None:
        del self._active[key]
        self._state.active.drop(key)

    async def _end_aborted(self, job: Job, reason: str) -> None:
        job.status, job.error, job.completed = Status.ABORTED, reason, now()
        await self._end(job, Settlement.ABORTED)
        await self._notify()

    async def _end(self, job: Job, settlement: Settlement) -> None:
        states = _LISTED[settlement]
        self._write(job)
        self._state.end(job.key, states, ttl=record_ttl(job, settlement), keep=self._keep[states[0]])
        if has_follow_ups(job):
            for queue, successor in self.follow_ups_of(job):
                await queue.store(successor)

    async def _notify(self) -> None:
        for changed in tuple(self._followers):
            changed()
        async with self._changed:
            self._changed.notify_all()

    def _write(self, job: Job) -> None:
        self._state.records[job.key] = self.serialize(job)
