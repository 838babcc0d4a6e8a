"""What there is to see, as plain values: strings and numbers alone, masked, whatever a queue's records hold."""

from __future__ import annotations

import asyncio
import heapq
import traceback
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from logging import getLogger
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import HTTPException, NotFoundException, ServiceUnavailableException
from redis.exceptions import RedisError
from saq.job import Job

from litestar_tasks.dashboard.redaction import printable, shown, shown_end
from litestar_tasks.exceptions import TasksError
from litestar_tasks.job import JobStatus, status_of
from litestar_tasks.queues.operations import JobFilter, JobState
from litestar_tasks.redaction import masked_text

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = (
    "HealthView",
    "JobView",
    "QueueView",
    "WorkerView",
    "asking",
    "find_job",
    "health",
    "job",
    "latest",
    "queue",
    "queues",
)

logger = getLogger("litestar_tasks.dashboard")

_IN_LISTS: Final = 2_000
_IN_DETAIL: Final = 64_000
_MOST: Final = 500
_ENDED: Final[tuple[JobState, ...]] = ("complete", "failed", "aborted")
_DEADLINE: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job. Moments are milliseconds since the epoch, 0 for never."""

    key: str
    function: str
    queue: str
    status: str
    kwargs: str
    result: str
    error: str
    meta: str
    attempts: int
    retries: int
    timeout: float
    priority: int
    progress: float
    queued: int
    scheduled: int
    started: int
    completed: int
    worker_id: str

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.status in {"complete", "failed", "aborted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """What a worker says of itself. The uptime is in milliseconds."""

    stats: Mapping[str, int]
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue, its workers by their ids, and its jobs: first those that run or wait, then those that ended last."""

    name: str
    active: int
    queued: int
    scheduled: int
    workers: Mapping[str, WorkerView]
    jobs: Sequence[JobView] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthView:
    """Whether jobs can be run: "ok", "no workers" or "broker unreachable", on the whole and for each queue."""

    status: str
    queues: Mapping[str, str] = field(default_factory=dict)


async def queues(found: Mapping[str, TaskQueue], *, jobs: int = 0) -> list[QueueView]:
    """All queues, each with up to twice so many jobs: some that wait or run, and the last that ended."""
    return list(await asyncio.gather(*(queue(one, jobs=jobs) for one in found.values())))


async def queue(found: TaskQueue, *, jobs: int = 50) -> QueueView:
    """A queue, with up to twice so many jobs: some that wait or run, and the last that ended."""
    async with asking(found):
        info = await found.info(jobs=jobs > 0, limit=jobs or 1)
        records = [found.deserialize(dict(record)) for record in info["jobs"]] if jobs else []
        records += await _last_ended(found, jobs) if jobs else []
    listed = {record.key: record for record in records if record}  # one may have ended between the two questions
    return QueueView(
        name=found.label,
        active=_number(info["active"]),
        queued=_number(info["queued"]),
        scheduled=_number(info["scheduled"]),
        workers={printable(id): _worker(worker) for id, worker in info["workers"].items()},
        jobs=[_view(found, record, _IN_LISTS) for record in listed.values()],
    )


def latest(found: Iterable[QueueView], limit: int) -> list[JobView]:
    """Of the jobs in these views, those to which something happened last."""
    jobs = (job for queue in found for job in queue.jobs)
    return heapq.nlargest(limit, jobs, key=lambda job: max(job.queued, job.started, job.completed))


async def job(found: TaskQueue, key: str) -> JobView:
    """A job with all that is kept of it.

    Raises:
        NotFoundException: There is none under this key.
    """
    record = await find_job(found, key)
    async with asking(found):
        # The queue knows better than the record when a job is due.
        status = await found.status(record.key)
    return _view(found, record, _IN_DETAIL, status=status)


async def health(found: Mapping[str, TaskQueue]) -> HealthView:
    """Whether the broker answers, and whether every queue has a worker."""
    states = dict(zip(found, await asyncio.gather(*map(_state, found.values())), strict=True))
    for state in ("broker unreachable", "no workers"):
        if state in states.values():
            return HealthView(status=state, queues=states)
    return HealthView(status="ok", queues=states)


async def find_job(found: TaskQueue, key: str) -> Job:
    """The record of a job, by its key or by its id.

    Raises:
        NotFoundException: There is none.
    """
    async with asking(found):
        record = await found.job(key)
        prefix = found.job_id("")
        if record is None and prefix and key.startswith(prefix):
            record = await found.job(key.removeprefix(prefix))
    if record is None:
        raise NotFoundException(
            f"Queue {found.label!r} has no job {printable(key)!r}: it never existed or its record has expired."
        )
    return record


@asynccontextmanager
async def asking(found: TaskQueue) -> AsyncGenerator[None, None]:
    """Bounds what a queue is asked within, and says what went wrong without saying more than that.

    Raises:
        ServiceUnavailableException: The broker did not answer.
        HTTPException: Status 500, for any other failure; the log has it.
    """
    try:
        async with asyncio.timeout(_DEADLINE):
            yield
    except HTTPException:
        raise
    except (TasksError, RedisError, OSError, TimeoutError) as error:
        # The queue itself logs outages, once for each.
        raise ServiceUnavailableException(
            f"Queue {found.label!r} did not answer. Is the broker running? The server's log says more."
        ) from error
    except Exception as error:
        logger.error("queue %r: %s", found.label, masked_text("".join(traceback.format_exception(error))))
        raise HTTPException(
            f"Queue {found.label!r} could not be read. The server's log says why.", status_code=500
        ) from error


async def _state(found: TaskQueue) -> str:
    try:
        async with asking(found):
            info = await found.info()
    except HTTPException:
        return "broker unreachable"
    return "ok" if info["workers"] else "no workers"


async def _last_ended(found: TaskQueue, limit: int) -> list[Job]:
    # One by one, so that many complete jobs don't hide the few that failed.
    async with asking(found):
        pages = [await found.page(JobFilter(state=state), limit=min(limit, _MOST)) for state in _ENDED]
    ended = (job for page in pages for job in page.jobs)
    return heapq.nlargest(limit, ended, key=lambda record: _number(record.completed))


def _view(found: TaskQueue, job: Job, limit: int, *, status: JobStatus | None = None) -> JobView:
    status = status or status_of(job)
    return JobView(
        key=printable(job.key),
        function=printable(job.function),
        queue=found.label,
        status=status,
        kwargs=shown(job.kwargs or {}, limit),
        result=shown(job.result, limit) if status == "complete" else "",  # of a job that runs again it is yesterday's
        error=shown_end(job.error, limit),
        meta=shown(job.meta or {}, limit),
        attempts=_number(job.attempts),
        retries=_number(job.retries),
        timeout=_number(job.timeout),
        priority=_number(job.priority),
        progress=min(100, max(0, _number(job.progress * 100))) / 100,
        queued=_number(job.queued),
        scheduled=_number(job.scheduled * 1000),
        started=_number(job.started),
        completed=_number(job.completed),
        worker_id=printable(job.worker_id or ""),
    )


def _worker(info: Any) -> WorkerView:
    stats = info.get("stats") or {}
    names = ("complete", "failed", "retried", "aborted", "uptime")
    return WorkerView(
        stats={name: _number(stats.get(name)) for name in names}, metadata=shown(info.get("metadata"), _IN_LISTS)
    )


def _number(value: Any) -> int:
    """A whole number, whatever a record holds in its place."""
    return int(value) if isinstance(value, (int, float)) and isfinite(value) else 0
