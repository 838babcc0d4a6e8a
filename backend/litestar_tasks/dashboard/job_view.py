"""A job as plain values: strings, numbers and moments alone, masked, whatever its record holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, cast

from saq.job import TERMINAL_STATUSES

from litestar_tasks.correlation import CORRELATION
from litestar_tasks.dashboard.redaction import Redactor, printable
from litestar_tasks.dashboard.tracebacks import Traceback, read_traceback
from litestar_tasks.follow_ups import FOLLOW_UPS, PARENT
from litestar_tasks.job import ENDED, LOG, MESSAGE, JobStatus, status_of
from litestar_tasks.moments import maybe_moment
from litestar_tasks.queues.history import HISTORY, history

if TYPE_CHECKING:
    from saq.job import Job

__all__ = ("Attempt", "JobRow", "JobView", "Line", "job_row", "job_view")

_IN_LISTS: Final = 300
_IN_DETAIL: Final = 64_000
_LONGEST_ERROR: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as lists show it."""

    key: str
    function: str
    queue: str
    status: str
    kwargs: str
    error: str
    """The last line of it."""
    tag: str
    attempts: int
    retries: int
    progress: float
    message: str
    queued: datetime | None
    scheduled: datetime | None
    started: datetime | None
    completed: datetime | None
    worker_id: str

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.status in {"complete", "failed", "aborted"}

    @property
    def moment(self) -> datetime | None:
        """When it came to where it stands, or is due."""
        by_status = {"active": self.started, "scheduled": self.scheduled, "queued": self.queued}
        return by_status.get(self.status, self.completed) or self.completed or self.queued

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took; None where it has not ended."""
        if self.started is None or self.completed is None:
            return None
        return max(0.0, (self.completed - self.started).total_seconds())


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a job's log."""

    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt, or what stands for several snoozes."""

    outcome: str
    error: str
    error_type: str
    traceback: Traceback | None
    started: datetime | None
    completed: datetime | None
    worker: str
    times: int

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        if self.started is None or self.completed is None:
            return None
        return max(0.0, (self.completed - self.started).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(JobRow):
    """A job with all that is kept of it."""

    id: str
    arguments: Sequence[tuple[str, str]]
    """Name and value of each."""
    result: str
    timeout: float
    priority: int
    reason: str
    """What ended it other than an error, an abort or a return."""
    traceback: Traceback | None
    history: Sequence[Attempt]
    """Its past attempts, oldest first."""
    log: Sequence[Line]
    parent: str
    """The id of the job that it stems from, or ""."""
    children: Sequence[str]
    """The ids of the follow-ups that were enqueued at its end."""
    follow_ups: Sequence[tuple[str, str]]
    """What is to follow: at which end, "success" or "failure", and the task."""
    correlation: str
    meta: str
    """What else travels with it."""


def job_row(job: Job, redactor: Redactor, *, status: str | None = None, secret: Collection[str] = ()) -> JobRow:
    """A job as lists show it.

    Args:
        job: The record.
        redactor: Makes of values what may be shown.
        status: Where it stands, if that is known better than by its record. Defaults to None: it is not.
        secret: Names of arguments that are secret. Defaults to none.
    """
    return JobRow(**_row(job, redactor, status or status_of(job), _IN_LISTS, secret))


def job_view(
    job: Job, redactor: Redactor, *, status: JobStatus, children: Sequence[str] = (), secret: Collection[str] = ()
) -> JobView:
    """A job with all that is kept of it; see ``job_row``."""
    meta = _mapping(job.meta)
    how = _mapping(meta.get(ENDED))
    kwargs = _mapping(job.kwargs)
    masked = redactor.value(kwargs, _IN_DETAIL, secret=secret)
    shown = {ENDED, LOG, MESSAGE, HISTORY, CORRELATION, PARENT, FOLLOW_UPS, "tag"}
    rest = {name: value for name, value in meta.items() if name not in shown}
    error = redactor.end(job.error, _IN_DETAIL)
    return JobView(
        **_row(job, redactor, status, _IN_DETAIL, secret),
        id=printable(job.id),
        arguments=[(name, redactor.shown(value, _IN_DETAIL, indent=2)) for name, value in masked.items()],
        # Of a job that runs again it is yesterday's.
        result=redactor.shown(job.result, _IN_DETAIL, indent=2) if status == "complete" else "",
        timeout=_number(job.timeout),
        priority=int(_number(job.priority)),
        reason=printable(str(how.get("reason") or "")),
        traceback=read_traceback(error, redactor.text) if error else None,
        history=[_attempt(entry, redactor) for entry in history(job)],
        log=[
            Line(maybe_moment(_number(line.get("at"))), redactor.text(str(line.get("text", ""))))
            for line in map(_mapping, _list(meta.get(LOG)))
        ],
        parent=printable(str(meta.get(PARENT) or "")),
        children=[printable(child) for child in children],
        follow_ups=[
            (end, redactor.text(str(_mapping(call).get("task"))))
            for end, calls in _mapping(meta.get(FOLLOW_UPS)).items()
            for call in _list(calls)
        ],
        correlation=redactor.text(str(meta.get(CORRELATION) or "")),
        meta=redactor.shown(rest, _IN_LISTS * 10, indent=2) if rest else "",
    )


def _row(job: Job, redactor: Redactor, status: str, limit: int, secret: Collection[str]) -> dict[str, Any]:
    meta = _mapping(job.meta)
    error = redactor.end(job.error, 2_000).strip().rpartition("\n")[2]
    return {
        "key": printable(job.key),
        "function": printable(job.function),
        "queue": getattr(job.queue, "label", ""),
        "status": status,
        "kwargs": redactor.shown(job.kwargs or {}, limit, secret=secret),
        "error": error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}…",
        "tag": redactor.text(str(meta.get("tag") or "")),
        "attempts": int(_number(job.attempts)),
        "retries": int(_number(job.retries)),
        "progress": min(1.0, max(0.0, _number(job.progress))),
        "message": redactor.text(str(meta.get(MESSAGE) or "")) if job.status not in TERMINAL_STATUSES else "",
        "queued": maybe_moment(_number(job.queued)),
        "scheduled": maybe_moment(_number(job.scheduled) * 1000),
        "started": maybe_moment(_number(job.started)),
        "completed": maybe_moment(_number(job.completed)),
        "worker_id": printable(job.worker_id or ""),
    }


def _attempt(entry: Mapping[str, Any], redactor: Redactor) -> Attempt:
    trace = redactor.end(str(entry.get("traceback") or ""), _IN_DETAIL)
    return Attempt(
        outcome=printable(str(entry.get("outcome") or "?")),
        error=redactor.end(str(entry.get("error") or ""), _IN_LISTS * 2),
        error_type=printable(str(entry.get("error_type") or "")),
        traceback=read_traceback(trace, redactor.text) if trace else None,
        started=maybe_moment(_number(entry.get("started"))),
        completed=maybe_moment(_number(entry.get("completed"))),
        worker=printable(str(entry.get("worker") or "")),
        times=max(1, int(_number(entry.get("times")))),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    """A finite number, whatever a record holds in its place."""
    return value if isinstance(value, (int, float)) and isfinite(value) else 0
