"""What the JSON API takes and answers, where it is not what the pages show, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from litestar_tasks.dashboard.job_view import JobRow
from litestar_tasks.dashboard.recorded_view import RecordedRow
from litestar_tasks.dashboard.tasks import TaskView
from litestar_tasks.queues.operations import JobState

__all__ = (
    "BulkBody",
    "BulkResult",
    "CopyBody",
    "EnqueueBody",
    "Health",
    "JobRef",
    "Jobs",
    "Key",
    "NewScheduleBody",
    "QueueView",
    "RecordedJobs",
    "RerunBody",
    "ScheduleBody",
    "Stats",
    "TaskDetail",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """How a queue stands."""

    name: str
    active: int
    queued: int
    scheduled: int
    counts: Mapping[JobState, int]
    """By state; retrying jobs are counted among the scheduled ones, quarantined among the failed ones, too."""
    counted_up_to: int | None
    """A count that is equal to it means "so many or more"; None where all are exact."""
    paused: bool
    paused_by: str
    oldest: datetime | None
    """Since when the job has been waiting that is claimed next."""
    workers: int
    """Those that are heard of."""
    capabilities: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """A page of jobs."""

    jobs: Sequence[JobRow]
    cursor: str
    """Where the next page begins; "" where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The job that it is about."""

    key: str
    queue: str = ""
    id: str = ""
    deduplicated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """A job, by its queue and key."""

    queue: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkBody:
    """Some jobs by their keys, or all that match a search."""

    jobs: Sequence[JobRef] = ()
    search: Mapping[str, str] | None = None
    """``state``, and what narrows it: ``queue``, ``task``, ``tag``, ``q``, ``since``, ``until``."""
    places: Mapping[str, str] | None = None
    """Where to go on, from the answer before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """What one step of an operation on many jobs did. It goes on with the same search and these places."""

    done: int
    skipped: int
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    """Empty at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueBody:
    """A call."""

    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What ``using`` takes; ``run_at`` as a text in ISO's form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBody:
    """The arguments of a new job in place of an old one."""

    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJobs:
    """A page of recorded jobs."""

    jobs: Sequence[RecordedRow]
    cursor: str
    """Where the next page begins; "" where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunBody:
    """Arguments of a new job that are not those of the recorded one."""

    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleBody:
    """What changes in a schedule; what is left out stays."""

    cron: str | None = None
    """Either this or ``every``."""
    every: float | None = None
    """Seconds."""
    timezone: str | None = None
    kwargs: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """Those that are given."""
        given = {"cron": self.cron, "every": self.every, "timezone": self.timezone, "kwargs": self.kwargs}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewScheduleBody(ScheduleBody):
    """A schedule that no code declares."""

    id: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetail(TaskView):
    """A registered task, with the JSON schema of its arguments and how it fared in the last day."""

    arguments: Mapping[str, Any]
    complete: int
    failed: int
    retried: int
    aborted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How attempts ended and how long they took, in seconds; percentiles are None where none ended."""

    start: datetime
    end: datetime
    complete: int
    failed: int
    retried: int
    aborted: int
    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether jobs can be run: "ok", "no workers" or "broker unreachable", on the whole and for each queue."""

    status: str
    queues: Mapping[str, str] = field(default_factory=dict[str, str])
