"""What every queue can do, whatever its broker: the producer's, the reader's and the worker's side."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass, fields
from enum import Enum
from os import urandom
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from saq.job import TERMINAL_STATUSES, Job, Status
from saq.queue.base import JobError as SaqJobError
from saq.queue.base import Queue
from saq.utils import now

from litestar_tasks.correlation import CORRELATION, correlation_id
from litestar_tasks.exceptions import BrokerError, QueueUnavailableError, UnknownQueueError
from litestar_tasks.follow_ups import FOLLOW_UPS
from litestar_tasks.job import ENDS, Event, JobSpec, JobStatus, Submission, event_of, status_of
from litestar_tasks.queues.following import apply_to_follow_ups, queues_of_follow_ups, successors
from litestar_tasks.queues.locks import LOCK
from litestar_tasks.queues.operations import Operations
from litestar_tasks.queues.reports import WorkerReport, read_reports
from litestar_tasks.queues.schedules import ScheduleStore

if TYPE_CHECKING:
    from saq.types import WorkerInfo

    from litestar_tasks.middleware import EnqueueHook
    from litestar_tasks.registry import Registry

__all__ = (
    "FIELDS",
    "ClaimedJob",
    "Delivery",
    "LeaseState",
    "Listener",
    "Moment",
    "Settlement",
    "Submission",
    "TaskQueue",
    "WorkerHooks",
)

Moment: TypeAlias = Literal["enqueued", "attempted", "ended"]
"""What can happen to a job: it was stored; an attempt has ended, and it waits again; it has ended."""
Listener: TypeAlias = "Callable[[TaskQueue, Job, Moment], None]"
"""Called on the queue's event loop, with a record that may change later. It must be quick, and must not raise."""
logger = logging.getLogger("litestar_tasks.queues")

_LOOK: Final = 1.0
"""Seconds after which a job that somebody watches is looked at, announced or not: that it starts, or is due, is not."""

FIELDS: Final = frozenset(field.name for field in fields(Job))
"""The names of a job's fields. A job's own ``__dict__`` leaves out those that have their default."""


class ClaimedJob(Job):
    """A job that a worker holds: SAQ's record and the fencing token of this claim.

    Attributes:
        token: Names this claim and no other. The broker refuses to settle a job under any token but the one that
            holds it now, so a worker that lost its lease can't overwrite what its successor does.
        fence: Grows from one claim of the job to the next, whichever workers they are of; two that lie within the same
            millisecond may share it. (Tokens need not grow: on Redis each worker counts its own.)
        lost: Whether the worker has learnt that somebody else holds the job now.
        document: The record as it was claimed; empty where the broker has no use for it.
        untouched: Whether nobody but the worker has had the job in hand, so that the record of its end differs from
            ``document`` by nothing but the outcome. Who changes another field sets it to False.
        ahead: By how many ms the broker's clock is ahead of this process's monotonic one; 0 where nobody has said so.
    """

    token: int = 0
    fence: int = 0
    lost: bool = False
    document: bytes = b""
    untouched: bool = False
    ahead: float = 0.0

    def now(self) -> int:
        """The moment, in ms, by the clock of the broker that said when the job was claimed.

        What a worker notes of a job, or decides about it, is beside what the broker and other workers do: a clock of
        its own that is wrong, or is set meanwhile, would have it expire jobs that have time, and end others before they
        have begun.
        """
        return int(monotonic() * 1000 + self.ahead) if self.ahead else now()


class Settlement(Enum):
    """What is to become of a claimed job."""

    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"
    QUARANTINED = "quarantined"
    """Failed without having run: nobody could decode it, or no worker knows its task."""
    RETRY = "retry"
    """Back to the tail, now or after a delay; the attempt counts."""
    SNOOZE = "snooze"
    """Back to the tail, now or after a delay; the attempt does not count."""
    HAND_BACK = "hand_back"
    """Back to the head, as it was before the claim."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and each attempt is looked up and counted by it


@dataclass(frozen=True, slots=True)
class WorkerHooks:
    """How a queue calls back the worker that opened it. All are called on the worker's event loop."""

    abort: Callable[[str, str], None]
    """``(job key, reason)``: somebody wants this running job aborted."""
    lost: Callable[[Sequence[str]], None]
    """The lease was lost, and with it the claims on these job keys: stop them, settle nothing of theirs."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """How a worker's lease on a queue is kept."""

    age: float
    """Seconds since it was renewed last. It grows while the broker is away."""
    renewing: bool
    """Whether what renews it is alive."""


@dataclass(slots=True)
class Delivery:
    """A row of an outbox on its way to becoming a job. Not frozen, as one is made for every row."""

    row: str
    """Names the row, and no other one ever."""
    job: Job
    """The job, queued, belonging to the queue that it is delivered to."""
    once: bool = False
    """As in ``TaskQueue.store``."""


class TaskQueue(Queue, Operations):
    """SAQ's ``Queue`` with typed errors, claims under fencing tokens, and enqueueing by validated name.

    Attributes:
        name: The name on the wire: ``namespace.label``, or the label alone without a namespace.
        label: The name that tasks, routes and configurations use.
        registry: The tasks that may be enqueued by name.
        on_enqueue: What sees each call before it is stored, before the hooks of its registry and its task.
        listeners: What hears of everything that happens to jobs in this process; see ``instrument``.
        schedules: The queue's schedules.
        neighbours: The queues of the same broker by label, for follow-ups that go to another one.
    """

    label: str
    schedules: ScheduleStore
    registry: Registry
    on_enqueue: tuple[EnqueueHook, ...] = ()
    neighbours: Mapping[str, TaskQueue] = {}
    listeners: tuple[Listener, ...] = ()

    def instrument(self, job: Job, moment: Moment) -> None:
        """Tell the listeners what happened to a job. Callers on hot paths look first whether there are any.

        Not told of are jobs of a transaction, before their first attempt, and the deletion of jobs that have ended.
        """
        for listener in self.listeners:
            listener(self, job, moment)

    # The producer's side

    async def enqueue(self, job_or_func: str | Job, /, **kwargs: Any) -> Job:  # type: ignore[override]
        """Enqueue a task by its name into this queue.

        The override is deliberate in three ways (hence the ignore): keyword arguments are the task's alone, also where
        SAQ's ``Job`` has a field of the same name; the first parameter is positional-only for the same reason; and
        the answer is never None: a job that is there already under the same key is returned as it is stored.

        Args:
            job_or_func: The task's name, or a SAQ ``Job`` of your own making, which is stored as it is.
            kwargs: The task's arguments. Options have a place of their own:
                ``registry.get_task(name).using(delay=5).enqueue(…)``.

        Raises:
            UnknownTaskError: No such task; names the nearest ones.
            PayloadError: The arguments do not fit the task's signature.
            QueueUnavailableError: The broker did not answer in time.
        """
        if isinstance(job_or_func, str):
            spec = self.registry.get_task(job_or_func).spec((), kwargs)
            return (await self.submit(spec)).job
        job = job_or_func
        for name, value in kwargs.items():
            setattr(job, name, value)
        if job.queue is not None and job.queue.name != self.name:
            raise ValueError(f"job {job.key!r} belongs to queue {job.queue.name!r}, not to {self.name!r}")
        registry = cast("Registry | None", self.registry)  # a queue of jobs alone has none
        task = registry.find_task(job.function) if registry is not None else None
        if task is not None and task.payload.secrets and job.kwargs:
            job.kwargs = dict(task.sealed(job.kwargs))
        job.queue = self
        job.queued = now()
        job.status = Status.QUEUED
        return (await self._submit_job(job)).job

    async def submit(self, spec: JobSpec) -> Submission:
        """Store one call as a job.

        Raises:
            QueueUnavailableError: The broker did not answer in time.
        """
        return await self._submit_job(self.build(spec), once=spec.once)

    async def prepare(self, spec: JobSpec) -> Job:
        """One call as a job that is to be stored, after all that sees it before."""
        job = self.build(spec)
        await self._before_enqueue(job)
        return job

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]:
        """Store many calls, in order, with as few round trips as the broker allows.

        Raises:
            QueueUnavailableError: The broker did not answer in time.
        """
        return await asyncio.gather(*(self.submit(spec) for spec in specs))

    async def _submit_job(self, job: Job, *, once: bool = False) -> Submission:
        await self._before_enqueue(job)
        submission = await self.store(job, once=once)
        if self.listeners and not submission.deduplicated:
            self.instrument(job, "enqueued")
        return submission

    def build(self, spec: JobSpec) -> Job:
        """The record of a call, as SAQ's tools can read it, after the hooks that see calls before they are stored."""
        self._apply_hooks(spec)
        return self.record(spec)

    def _apply_hooks(self, spec: JobSpec) -> None:
        hooks = self.on_enqueue
        registry = cast("Registry | None", self.registry)  # a queue of jobs alone has none
        if registry is not None and registry.on_enqueue:
            hooks += registry.on_enqueue.get(spec.task, ())
        if hooks:
            spec.meta = dict(spec.meta)  # a task's specs share theirs
            for hook in hooks:
                hook(spec)
        if FOLLOW_UPS in spec.meta:
            for label in queues_of_follow_ups(spec):
                if self.neighbours and label not in self.neighbours:
                    raise UnknownQueueError(label, self.neighbours)
            apply_to_follow_ups(spec, self._apply_hooks)

    def record(self, spec: JobSpec) -> Job:
        """The record of a call that every hook has seen."""
        meta = dict(spec.meta)
        if (known := correlation_id.get()) is not None:
            meta.setdefault(CORRELATION, known)
        if spec.lock is not None:
            meta[LOCK] = asdict(spec.lock)
        job = Job.__new__(Job)  # its __init__ would set 25 fields; most have their default, which the class has, too
        job.__dict__ = {
            "function": spec.task,
            "kwargs": dict(spec.kwargs) or None,
            "queue": self,
            "key": spec.key or _new_key(),
            "timeout": spec.timeout,
            "retries": spec.max_attempts,
            "ttl": spec.ttl,
            "scheduled": spec.run_at.timestamp() if spec.run_at else 0,
            "priority": spec.priority,
            "queued": now(),
            "status": Status.QUEUED,
            "meta": meta,
        }
        if spec.group is not None:
            job.group_key = spec.group
        return job

    def follow_ups_of(self, job: Job) -> list[tuple[TaskQueue, Job]]:
        """What follows a job of this queue that has ended, each with the queue that it goes to.

        They count as enqueued when the job ended. One for a queue that this process does not know stays in this one,
        since any worker runs any task.
        """
        found: list[tuple[TaskQueue, Job]] = []
        for label, spec in successors(job):
            queue = self if label == self.label else self.neighbours.get(label)
            if queue is None:
                logger.warning(
                    "queue %r: job %s is followed by %r in queue %r, which is not known here; it goes to this one",
                    self.name,
                    job.id,
                    spec.task,
                    label,
                )
                queue = self
            record = queue.record(spec)
            record.queued = job.completed
            found.append((queue, record))
        return found

    async def owes(self) -> bool:
        """Whether jobs of this queue have ended whose follow-ups are still to be enqueued, which workers do."""
        return False

    @abstractmethod
    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """Store a new job, unless one that is not finished has its key.

        Args:
            job: The job, queued, belonging to this queue.
            once: Also refuse the key of a finished job whose record is still there. Defaults to False.

        Raises:
            QueueUnavailableError: The broker did not answer in time.
        """

    # The reader's side

    async def status(self, key: str) -> JobStatus | None:
        """Where a job stands, or None where there is no record of it."""
        job = await self.job(key)
        return status_of(job) if job else None

    async def statuses(self, keys: Sequence[str]) -> dict[str, JobStatus]:
        """Where several jobs stand, asked for together; those of which there is no record are left out."""
        found: dict[str, JobStatus] = {}
        for key in keys:
            if (status := await self.status(key)) is not None:
                found[key] = status
        return found

    @abstractmethod
    async def wait(self, key: str, timeout: float | None) -> Job | None:
        """Wait for a job's end and return its record; None where there is none.

        Raises:
            TimeoutError: It had not ended after ``timeout`` seconds.
        """

    async def change(self, key: str, seen: Event | None) -> Event | None:
        """Wait until a job stands otherwise than it was seen; None where there is no record of it.

        Returns at once where nothing was seen yet. An outage of the broker is waited for.
        """
        changed = asyncio.Event()
        async with self.following(key, changed.set):
            while True:
                changed.clear()
                try:
                    event = await self._event(key)
                    if event is None or event != seen:
                        return event
                except (BrokerError, QueueUnavailableError):
                    pass  # said by the queue; the look is repeated
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await changed.wait()

    async def _event(self, key: str) -> Event | None:
        job = await self.job(key)
        if job is None or job.status in TERMINAL_STATUSES:
            return event_of(job, status_of(job)) if job else None
        status = await self.status(key)
        if status in ENDS:  # it has ended between the two looks
            return await self._event(key)
        return event_of(job, status) if status else None

    @abstractmethod
    def following(self, key: str, changed: Callable[[], None]) -> AbstractAsyncContextManager[object]:
        """Call ``changed`` within a block when a change of a job is announced, which not every one is."""

    @abstractmethod
    async def cancel(self, key: str, reason: str) -> bool:
        """Abort a job that waits or runs; False, and no change, for one that has ended or never was."""

    async def _tell_aborted(self, key: str) -> None:
        """Tell the listeners of a job that was aborted while it waited. One that runs is its worker's to tell of."""
        with suppress(BrokerError, QueueUnavailableError):  # it is aborted all the same
            job = await self.job(key)
            if job is not None and job.status is Status.ABORTED:
                self.instrument(job, "ended")

    def tell_ended(self, jobs: Iterable[Job], error: str) -> None:
        """Tell the listeners of jobs that an operator has ended as they waited, of which the records were read before.

        Args:
            jobs: The jobs, which are the caller's own.
            error: What ended them.
        """
        for job in jobs:
            job.status, job.error, job.completed = Status.ABORTED, error, now()
            self.instrument(job, "ended")

    async def abort(self, job: Job, error: str, ttl: float = 5) -> None:
        """SAQ's spelling of ``cancel``; ``ttl`` is ignored."""
        await self.cancel(job.key, error)

    async def apply(
        self, job_or_func: str, timeout: float | None = None, poll_interval: float = 0.5, **kwargs: Any
    ) -> Any:
        """Enqueue a task by name and wait for its result, with SAQ's errors.

        Args:
            job_or_func: The task's name.
            timeout: Seconds to wait, which do not limit the job itself. Defaults to None: as long as it takes.
            poll_interval: SAQ's; ignored, the end of a job is announced by a message.
            kwargs: The task's arguments.

        Raises:
            TimeoutError: The job had not ended in time.
            saq.queue.base.JobError: It failed or was aborted.
        """
        job = await self.enqueue(job_or_func, **kwargs)
        ended = await self.wait(job.key, timeout)
        if ended is not None and ended.status is not Status.COMPLETE:
            raise SaqJobError(ended)
        return ended.result if ended else None

    async def workers(self) -> list[WorkerReport]:
        """Who works on this queue, as they said last, every ten seconds; those that fell silent for up to an hour.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        return read_reports(self.label, await self.worker_infos())

    @abstractmethod
    async def worker_infos(self) -> Mapping[str, WorkerInfo]:
        """What ``write_worker_info`` stored and what has not expired, by the workers' ids."""

    # The outbox's side

    @abstractmethod
    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Store the jobs of rows, in order. Each row is heeded once, for seven days, however often it comes.

        A key that is taken is no error: its row has been heeded.

        Raises:
            PayloadError: The broker refuses one of them for what it says; those before it are stored.
            QueueUnavailableError: The broker did not answer in time; some of them may be stored.
        """

    @abstractmethod
    async def incarnation(self) -> str | None:
        """Names the server as long as it cannot have forgotten anything; None where the jobs end with this process.

        Another name, after a restart or a failover, means that what was stored within two seconds before may be gone.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def release(self, rows: Sequence[str]) -> None:
        """Heed rows that are gone for one more hour only.

        Not less: somebody may have read one before it went, and may have been frozen with it since.

        Raises:
            QueueUnavailableError: The broker did not answer. Nothing rests on it.
        """

    # The worker's side

    @abstractmethod
    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """Begin to work on this queue: register a lease and keep it alive until ``close``."""

    @abstractmethod
    async def claim(self, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
        """Claim up to ``limit`` jobs, waiting while there are none.

        Returns after at most about a second without a job, with an empty list. The jobs are marked active, carry
        their token, and belong to this worker until they are settled. Cancelling a claim loses nothing: what was
        claimed meanwhile is handed back.

        Args:
            limit: How many there is capacity for.
            ahead: Whether the caller claims again as soon as a settled job has made room. The broker may then claim for
                that room in the call that settles; what is not asked for within a quarter of a second is handed back.
                Defaults to False.

        Raises:
            BrokerError: The broker is away. The caller is expected to call again; the queue paces itself.
        """

    @abstractmethod
    async def settle(self, job: ClaimedJob, settlement: Settlement, *, delay: float = 0.0) -> bool:
        """Write what became of a claimed job, as the fields of ``job`` say it.

        Keeps trying while the broker is away: a result is never dropped because of an outage.

        Args:
            job: The claimed job, with its new status, result, error and attempts.
            settlement: What is to become of it.
            delay: Seconds until a retry or snooze is ready. Defaults to 0: at once.

        Returns:
            False where the claim was lost in the meantime, and nothing was written.
        """

    def lease(self) -> LeaseState | None:
        """How the lease is kept; None where there is none, because the queue is not open or its broker needs none."""
        return None

    @abstractmethod
    async def close(self, *, keep: Collection[str] = ()) -> None:
        """Stop working: hand back what is still claimed, and give up the lease.

        Args:
            keep: Keys of jobs whose code cannot be stopped and runs on, such as a sync task in its thread. They stay
                claimed until the process has ended: handed back now they would run twice at the same time. Those that
                come back then have lost nothing. Defaults to none.
        """


def _new_key() -> str:
    """A key that no other job has.

    It grows with time: what a broker keeps in the order of keys is entered at one end and leaves at the other, and is
    never searched in the midst of a long queue.
    """
    return f"{time_ns():016x}{urandom(8).hex()}"
