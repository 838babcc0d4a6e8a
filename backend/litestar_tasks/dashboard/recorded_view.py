"""A recorded job as plain values: strings, numbers and moments alone, masked once more before they are shown."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.dashboard.job_view import Attempt
from litestar_tasks.dashboard.redaction import Redactor, printable
from litestar_tasks.dashboard.tracebacks import Traceback, read_traceback

if TYPE_CHECKING:
    from litestar_tasks.outbox.history import HistoryAttempt, HistoryGap, HistoryJob

__all__ = ("Gap", "RecordedJob", "RecordedRow", "gap_view", "life_of", "recorded_job", "recorded_row")

_IN_LISTS: Final = 300
_IN_DETAIL: Final = 64_000
_LONGEST_ERROR: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """A recorded job as lists show it."""

    id: str
    life: int
    """Tells lives of one job from each other: when it was enqueued, in milliseconds."""
    task: str
    queue: str
    status: str
    """Where it stood when it was last recorded."""
    kwargs: str
    error: str
    """The last line of it."""
    tag: str
    attempts: int
    enqueued: datetime
    started: datetime | None
    ended: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took; None where it has not ended, or ended without."""
        return max(0.0, (self.ended - self.started).total_seconds()) if self.started and self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJob(RecordedRow):
    """A recorded job with all that the history holds of it."""

    arguments: Sequence[tuple[str, str]]
    """Name and value of each."""
    withheld: Sequence[str]
    """The names of arguments that are not kept as they were: they were secret or too long."""
    result: str
    """Its beginning."""
    priority: int
    reason: str
    """What ended it other than an error, an abort or a return."""
    traceback: Traceback | None
    history: Sequence[Attempt]
    """Its last attempts, oldest first; of a job that has ended, the last of them is its end."""
    worker: str
    parent: str
    """The id of the job that it stems from, or ""."""
    correlation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What a process could not record."""

    since: datetime
    until: datetime
    lost: int
    """How many changes of jobs there were."""
    process: str
    reason: str


def life_of(job: HistoryJob) -> int:
    """What tells a life of a job from its other ones."""
    return round(job.enqueued.timestamp() * 1000)


def recorded_row(job: HistoryJob, redactor: Redactor, *, secret: Collection[str] = ()) -> RecordedRow:
    """A recorded job as lists show it.

    Args:
        job: What is recorded.
        redactor: Makes of values what may be shown.
        secret: Names of arguments that are secret. Defaults to none.
    """
    return RecordedRow(**_row(job, redactor, _IN_LISTS, secret))


def recorded_job(job: HistoryJob, redactor: Redactor, *, secret: Collection[str] = ()) -> RecordedJob:
    """A recorded job with all that the history holds of it; see ``recorded_row``."""
    masked = redactor.value(job.arguments, _IN_DETAIL, secret=secret)
    error = redactor.end(job.traceback or job.error, _IN_DETAIL)
    return RecordedJob(
        **_row(job, redactor, _IN_DETAIL, secret),
        arguments=[(name, redactor.shown(value, _IN_DETAIL, indent=2)) for name, value in masked.items()],
        withheld=[redactor.text(name) for name in job.withheld],
        result=_result(job.result, redactor),
        priority=job.priority,
        reason=redactor.text(job.reason or ""),
        traceback=read_traceback(error, redactor.text) if error else None,
        history=[_attempt(one, redactor) for one in job.attempts],
        worker=redactor.text(job.worker or ""),
        parent=printable(job.parent or ""),
        correlation=redactor.text(job.correlation_id or ""),
    )


def gap_view(gap: HistoryGap, redactor: Redactor) -> Gap:
    """What a process could not record."""
    process, reason = redactor.text(gap.process), redactor.text(gap.reason)
    return Gap(since=gap.since, until=gap.until, lost=gap.lost, process=process, reason=reason)


def _row(job: HistoryJob, redactor: Redactor, limit: int, secret: Collection[str]) -> dict[str, Any]:
    error = redactor.end(job.error, 2_000).strip().rpartition("\n")[2]
    return {
        "id": printable(job.id),
        "life": life_of(job),
        "task": printable(job.task),
        "queue": printable(job.queue),
        "status": printable(job.status),
        "kwargs": redactor.shown(job.arguments, limit, secret=secret),
        "error": error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}…",
        "tag": redactor.text(job.tag or ""),
        "attempts": job.attempted,
        "enqueued": job.enqueued,
        "started": job.started,
        "ended": job.ended,
    }


def _result(text: str | None, redactor: Redactor) -> str:
    """A result by its names and values: patterns for names find nothing in a text."""
    try:
        return redactor.shown(json.loads(text or "null"), _IN_DETAIL, indent=2)
    except ValueError:  # somebody else wrote it
        return redactor.text(text or "")


def _attempt(one: HistoryAttempt, redactor: Redactor) -> Attempt:
    trace = redactor.end(one.traceback, _IN_DETAIL)
    return Attempt(
        outcome=printable(one.outcome) or "?",
        error=redactor.end(one.error, _IN_LISTS * 2),
        error_type=redactor.text(one.error_type or ""),
        traceback=read_traceback(trace, redactor.text) if trace else None,
        started=one.started,
        completed=one.ended,
        worker=redactor.text(one.worker or ""),
        times=max(1, one.times),
    )
