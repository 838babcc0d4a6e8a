"""An enqueued call: what a queue stores of it, and what it says of it."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias

from saq.job import TERMINAL_STATUSES, Status
from typing_extensions import TypeVar

from litestar_tasks.uniqueness import Lock

if TYPE_CHECKING:
    from saq.job import Job

__all__ = (
    "ENDED",
    "ENDS",
    "LOG",
    "MESSAGE",
    "Event",
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
