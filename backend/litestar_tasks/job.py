"""An enqueued call: what a queue stores of it, and what its caller sees of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias

from saq.job import TERMINAL_STATUSES, Status
from typing_extensions import TypeVar

from litestar_tasks.exceptions import (
    JobAbortedError,
    JobDiscardedError,
    JobError,
    JobFailedError,
    JobNotFoundError,
)
from litestar_tasks.uniqueness import Lock

if TYPE_CHECKING:
    from saq.job import Job

__all__ = (
    "CAPACITY",
    "ENDED",
    "ENDS",
    "LOG",
    "MESSAGE",
    "Capacity",
    "Event",
    "JobHandle",
    "JobOutcome",
    "JobQueue",
    "JobSpec",
    "JobStatus",
    "LogLine",
    "Submission",
    "event_of",
    "status_of",
)

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

JobStatus: TypeAlias = Literal["scheduled", "queued", "active", "complete", "failed", "aborted"]
"""SAQ's words. ``scheduled`` waits for its time, ``queued`` for a worker; the last three are final."""

ENDED: Final = "ended"
"""Where a job's ``meta`` keeps what SAQ's record has no field for: ``reason`` and ``error_type`` of how it ended."""

_DISCARDED: Final = ("discarded", "expired")

ENDS: Final = frozenset[JobStatus](("complete", "failed", "aborted"))
"""The statuses that are final."""

MESSAGE: Final = "message"
"""Where a job's ``meta`` keeps what it says that it is doing."""
LOG: Final = "log"
"""Where a job's ``meta`` keeps its log: a list of ``{"at": ms, "text": …}``, the oldest line first."""


@dataclass(slots=True, kw_only=True)
class JobSpec:
    """All that a queue needs to store one call: validated, resolved, not yet a job.

    Not frozen, as one is made for every call, and a frozen one takes three times as long to make.
    """

    task: str
    """The task's name."""
    kwargs: Mapping[str, Any]
    """The payload by argument name, in JSON's own types."""
    key: str | None = None
    """The job's key, unique within its queue while it is not finished. Defaults to a random one."""
    run_at: datetime | None = None
    """An aware datetime before which the job does not start. Defaults to None: at once."""
    timeout: float = 300
    """Seconds an attempt may take; 0 for no limit."""
    max_attempts: int = 1
    """How many attempts the job has before its failure is final."""
    ttl: int = 86_400
    """Seconds the record of the finished job is kept, as SAQ counts them: 0 for ever, -1 not at all."""
    priority: int = 0
    """Lower numbers are claimed first, from -100 to 100."""
    once: bool = False
    """Refuse a key whose job has finished, too, as long as its record is kept."""
    lock: Lock | None = None
    """By what calls that are alike find the job. Defaults to None: each call is a job of its own."""
    group: str | None = None
    """Of the jobs of one group, one runs at a time. Defaults to None: the job is in no group."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What travels with the job beside its payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """How a job stood at one moment."""

    status: JobStatus
    """Where it stood."""
    progress: float
    """How far the task said it had come, from 0.0 to 1.0."""
    message: str | None
    """What it said it was doing; None where it said nothing."""
    attempt: int
    """The attempt that it was in, or waited for; of a job that has ended, its last one."""

    @property
    def ended(self) -> bool:
        """Whether it is the last one."""
        return self.status in ENDS


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """What a job said at one moment."""

    at: datetime
    """When, in UTC."""
    text: str
    """What."""


@dataclass(slots=True)
class Submission:
    """What came of a submitted call. Not frozen for the reason that ``JobSpec`` is not."""

    job: Job
    """The stored job: this call's, or the one that was there under the same key."""
    deduplicated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome(Generic[R_co]):
    """How a job ended."""

    id: str
    """The job's id."""
    status: Literal["complete", "failed", "aborted"]
    """The job's last status."""
    result: R_co | None = field(default=None, repr=False)
    """What the task returned, as the annotated type; None unless the job is complete."""
    error: str | None = None
    """The worker's traceback or a sentence, without what looks like a secret; None if the job is complete."""
    error_type: str | None = None
    """The name of the class of what the task raised; None where it was not an exception that ended the job."""
    reason: str | None = None
    """What ended the job other than an error, an abort or a return: "discarded" by its task or by ``discard_on``,
    "expired" before it started, "result" for one that does not fit or cannot be stored."""
    started: datetime | None = None
    """When the last attempt began; None for a job that was never started."""
    ended: datetime | None = None
    """When the job ended."""
    attempts: int = 0
    """How many attempts were counted."""
    queue: str = ""
    """The label of its queue."""
    worker: str | None = None
    """The id of the worker that ran the last attempt, as SAQ's tools show it."""

    @property
    def success(self) -> bool:
        """Whether the job is complete."""
        return self.status == "complete"


class JobQueue(Protocol):
    """What calls and handles need of a queue."""

    async def submit(self, spec: JobSpec) -> Submission: ...

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]: ...

    def job_id(self, job_key: str) -> str: ...

    async def job(self, job_key: str) -> Job | None: ...

    async def status(self, key: str) -> JobStatus | None: ...

    def wait(self, key: str, timeout: float | None) -> Coroutine[Any, Any, Job | None]: ...

    async def cancel(self, key: str, reason: str) -> bool: ...

    def change(self, key: str, seen: Event | None) -> Coroutine[Any, Any, Event | None]: ...


class Capacity(Protocol):
    """The place that a running attempt takes in its worker."""

    group: str | None
    """The group of which its job runs alone; None where it is in none."""

    def is_of_queue(self, job_id: str) -> bool:
        """Whether a job is one of the worker's own queue."""
        ...

    def away(self, job_id: str) -> AbstractAsyncContextManager[None]:
        """Leave the place to others within a block, in which this job is waited for.

        Raises:
            JobError: That could last for ever.
        """
        ...


CAPACITY: Final[ContextVar[Capacity | None]] = ContextVar("capacity", default=None)
"""The place of the attempt that runs here; None outside of workers."""


class JobHandle(Generic[R_co]):
    """A job as its caller sees it: what it is doing now, and how it ends.

    A handle is cheap and holds no state of the job: each method asks the broker.

    Attributes:
        id: The job's id, the same string as SAQ's ``Job.id``. It can be stored, sent to a browser, and
            turned into a handle again with ``registry.job(id)`` or ``my_task.job(id)``.
        deduplicated: Whether this enqueue made no job of its own, because it found one: under the same key, or by
            ``unique``, ``debounce`` or ``throttle``.
    """

    __slots__ = ("_decode", "_key", "_queue", "deduplicated", "id")

    def __init__(
        self,
        queue: JobQueue,
        key: str,
        *,
        decode: Callable[[Any], R_co] | None = None,
        deduplicated: bool = False,
    ) -> None:
        self._queue = queue
        self._key = key
        self._decode = decode
        self.id = queue.job_id(key)
        self.deduplicated = deduplicated

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def status(self) -> JobStatus:
        """Where the job stands.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        status = await self._queue.status(self._key)
        if status is None:
            raise JobNotFoundError(self.id)
        return status

    async def result(self, *, timeout: float | None = None) -> R_co:
        """Wait until the job ends, and return what the task returned.

        Args:
            timeout: Seconds to wait; 0 looks once. The job itself is not touched when they are over.
                Defaults to None: as long as it takes.

        Raises:
            TimeoutError: The job had not ended in time.
            JobFailedError: It failed; carries the worker's traceback.
            JobDiscardedError: Its task found it pointless, or it expired before it started.
            JobAbortedError: It was aborted.
            JobNotFoundError: It never existed, or its record has expired.
        """
        job = await self._ended(timeout)
        if job.status is Status.FAILED:
            raise JobFailedError(
                self.id, job.error or "no error was recorded", error_type=_how_it_ended(job).get("error_type")
            )
        if job.status is Status.ABORTED:
            kind = JobDiscardedError if _how_it_ended(job).get("reason") in _DISCARDED else JobAbortedError
            raise kind(self.id, job.error or "no reason was recorded")
        return self._result_of(job)

    async def outcome(self, *, timeout: float | None = None) -> JobOutcome[R_co]:
        """Wait until the job ends, and say how, whether it succeeded or not.

        Args:
            timeout: Seconds to wait; 0 looks once. Defaults to None: as long as it takes.

        Raises:
            TimeoutError: The job had not ended in time.
            JobNotFoundError: It never existed, or its record has expired.
            JobError: It is complete, and its result does not fit the return annotation of this release.
        """
        job = await self._ended(timeout)
        how = _how_it_ended(job)
        complete = job.status is Status.COMPLETE
        return JobOutcome(
            id=self.id,
            status=job.status.value,  # type: ignore[arg-type]  # a job that has ended has one of the three
            result=self._result_of(job) if complete else None,
            error=None if complete else job.error,
            error_type=how.get("error_type"),
            reason=how.get("reason"),
            started=_moment(job.started),
            ended=_moment(job.completed),
            attempts=job.attempts,
            queue=getattr(job.queue, "label", ""),
            worker=job.worker_id,
        )

    async def progress(self) -> float:
        """How far the task says it has come, from 0.0 to 1.0.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        job = await self._queue.job(self._key)
        if job is None:
            raise JobNotFoundError(self.id)
        return job.progress

    async def logs(self) -> list[LogLine]:
        """What the job has said by ``CurrentJob.log``: the last 100 lines, the oldest first.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        job = await self._queue.job(self._key)
        if job is None:
            raise JobNotFoundError(self.id)
        return [
            LogLine(at=datetime.fromtimestamp(line["at"] / 1000, UTC), text=line["text"])
            for line in (job.meta or {}).get(LOG, ())
        ]

    async def events(self) -> AsyncGenerator[Event, None]:
        """How the job stands now, and then each change of its status, progress or message, until it has ended.

        ::

            async for event in job.events():
                print(event.status, event.progress, event.message)

        It is no record: of changes that follow each other at once, only the last one may be seen. The end always is.
        An outage of the broker is waited for.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            JobError: Waiting here could last for ever; see ``result``.
        """
        seen: Event | None = None
        while seen is None or not seen.ended:
            seen = await self._away(self._queue.change(self._key, seen))
            if seen is None:
                raise JobNotFoundError(self.id)
            yield seen

    async def abort(self, reason: str = "aborted by its caller") -> bool:
        """End the job: one that waits is never started, one that runs is cancelled.

        Args:
            reason: Kept with the job. Defaults to a sentence that says the caller did it.

        Returns:
            Whether it will end as aborted; False for a job that has ended already, which stays as it is.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        return await self._queue.cancel(self._key, reason)

    async def _ended(self, timeout: float | None) -> Job:
        waiting = self._queue.wait(self._key, timeout)
        job = await (waiting if timeout == 0 else self._away(waiting))
        if job is None:
            raise JobNotFoundError(self.id)
        return job

    def _result_of(self, job: Job) -> R_co:
        if self._decode is None:
            return job.result  # type: ignore[no-any-return]  # SAQ types a result as Any
        try:
            return self._decode(job.result)
        except (TypeError, ValueError) as error:
            raise JobError(
                self.id, f"the result of job {self.id!r} does not fit the task's return annotation: {error}"
            ) from error

    async def _refuse_own_group(self, group: str) -> None:
        job = await self._queue.job(self._key)
        if job is not None and job.group_key == group and job.status not in TERMINAL_STATUSES:
            raise JobError(
                self.id,
                f"job {self.id!r} is of those of which one runs at a time, and so is the task that waits for it: it "
                "could never start. Do not wait for it, or let exclusive tell the two apart by an argument",
            )

    async def _away(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait, and in a worker leave one's place to others meanwhile: to the very job, perhaps."""
        capacity = CAPACITY.get()
        if capacity is None:
            return await waiting
        try:
            if capacity.group is not None and capacity.is_of_queue(self.id):
                await self._refuse_own_group(capacity.group)
            async with capacity.away(self.id):
                return await waiting
        finally:
            waiting.close()  # where it was refused, it has not begun


def status_of(job: Job, *, due: float = 0.0) -> JobStatus:
    """The status of a stored job in the words of ``JobStatus``.

    Args:
        job: The record as SAQ reads it.
        due: Seconds since the epoch at which it becomes ready, where the queue knows better than the record.
            Defaults to the record's own ``scheduled``.
    """
    if job.status in TERMINAL_STATUSES:
        return job.status.value  # type: ignore[return-value]  # the three terminal values are JobStatus's
    if job.status in (Status.ACTIVE, Status.ABORTING):
        return "active"
    return "scheduled" if (due or job.scheduled) > time.time() else "queued"


def event_of(job: Job, status: JobStatus) -> Event:
    """How a stored job stands.

    Args:
        job: The record as SAQ reads it.
        status: Where the queue says that it stands.
    """
    return Event(
        status=status,
        progress=job.progress,
        message=None if status in ("scheduled", "queued") else (job.meta or {}).get(MESSAGE),
        attempt=max(1, job.attempts if status in ENDS else job.attempts + 1),
    )


def _how_it_ended(job: Job) -> dict[str, Any]:
    """What ``meta`` says of the end; of a record that somebody else wrote, what can be read as such."""
    how = job.meta.get(ENDED) if job.meta else None
    return how if isinstance(how, dict) else {}


def _moment(milliseconds: float) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
