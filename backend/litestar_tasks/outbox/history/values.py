"""What a search of the history answers: values, made of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from litestar_tasks.moments import maybe_moment, moment_of

if TYPE_CHECKING:
    from litestar_tasks.job import JobStatus

__all__ = ("HistoryAttempt", "HistoryGap", "HistoryJob", "HistoryPage", "gap_of", "job_of")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryAttempt:
    """One attempt of a job."""

    outcome: str
    """"retry", "snooze", or how the job ended with it: "complete", "failed", "aborted"."""
    started: datetime | None
    """When it began, in UTC; None for a job that ended without."""
    ended: datetime | None
    """When it ended, in UTC."""
    error_type: str | None
    """The name of the class of what it raised."""
    error: str | None
    """The last line of the error."""
    traceback: str | None
    """The traceback, without what looks like a secret."""
    worker: str | None
    """The id of its worker."""
    times: int
    """How many attempts this stands for: snoozes that follow each other are one."""

    @property
    def duration(self) -> timedelta | None:
        """How long it took."""
        return self.ended - self.started if self.started and self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryJob:
    """What was recorded of one life of a job."""

    id: str
    """Its id."""
    task: str
    """Its task's name."""
    queue: str
    """The label of its queue."""
    status: JobStatus
    """Where it stood when it was last recorded. Of one that waits, nothing says that it still does."""
    tag: str | None
    """Its tag."""
    correlation_id: str | None
    """Its correlation id."""
    parent: str | None
    """The id of the job that it was made from."""
    priority: int
    """Its priority."""
    arguments: Mapping[str, Any]
    """Its arguments in JSON's own types, without what is secret or too long."""
    withheld: tuple[str, ...]
    """The names of arguments that are not kept as they were."""
    enqueued: datetime
    """When it was enqueued, in UTC."""
    started: datetime | None
    """When its last attempt began; None before it ended."""
    ended: datetime | None
    """When it ended; None while nothing was recorded of that."""
    attempts: tuple[HistoryAttempt, ...]
    """Its last ten attempts, the oldest first."""
    attempted: int
    """How many attempts were counted."""
    error_type: str | None
    """The name of the class of what its last attempt raised."""
    error: str | None
    """The last line of its error."""
    traceback: str | None
    """Its traceback, without what looks like a secret."""
    reason: str | None
    """What ended it other than an error or an abort: "discarded", "expired", "result"."""
    worker: str | None
    """The id of the worker of its last attempt."""
    result: str | None
    """The beginning of its result as JSON, without what is secret."""

    @property
    def duration(self) -> timedelta | None:
        """How long its last attempt took."""
        return self.ended - self.started if self.started and self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Some jobs of a search, the newest first."""

    jobs: list[HistoryJob]
    cursor: str | None
    """Where the next page begins; None where there is none. Opaque."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryGap:
    """What a process could not record."""

    since: datetime
    """When the first of it happened, in UTC."""
    until: datetime
    """When the last of it happened, in UTC."""
    lost: int
    """How many changes of jobs there were."""
    process: str
    """The process: its machine and its number."""
    reason: str
    """Why."""


def job_of(row: Mapping[str, Any]) -> HistoryJob:
    """The job that a row is about."""
    attempts = [_attempt(one) for one in msgspec.json.decode(row["log"] or "[]")]
    if row["ended"]:
        attempts.append(_last_attempt(row))
    return HistoryJob(
        id=row["id"],
        task=row["task"],
        queue=row["queue"],
        status=row["status"],
        tag=row["tag"],
        correlation_id=row["correlation"],
        parent=row["parent"],
        priority=row["priority"],
        arguments=msgspec.json.decode(row["arguments"]),
        withheld=tuple(msgspec.json.decode(row["withheld"] or "[]")),
        enqueued=moment_of(row["enqueued"]),
        started=maybe_moment(row["started"]),
        ended=maybe_moment(row["ended"]),
        attempts=tuple(attempts),
        attempted=row["attempts"],
        error_type=row["error_type"],
        error=row["error"],
        traceback=row["traceback"],
        reason=row["reason"],
        worker=row["worker"],
        result=row["result"],
    )


def gap_of(row: Mapping[str, Any]) -> HistoryGap:
    """The gap that a row is about."""
    return HistoryGap(
        since=moment_of(row["since"]),
        until=moment_of(row["until"]),
        lost=row["lost"],
        process=row["process"],
        reason=row["reason"],
    )


def _attempt(one: Mapping[str, Any]) -> HistoryAttempt:
    return HistoryAttempt(
        outcome=one.get("outcome", ""),
        started=maybe_moment(one.get("started")),
        ended=maybe_moment(one.get("completed")),
        error_type=one.get("error_type"),
        error=one.get("error"),
        traceback=one.get("traceback"),
        worker=one.get("worker"),
        times=one.get("times", 1),
    )


def _last_attempt(row: Mapping[str, Any]) -> HistoryAttempt:
    """The attempt that a job ended with."""
    return HistoryAttempt(
        outcome=row["status"],
        started=maybe_moment(row["started"]),
        ended=maybe_moment(row["ended"]),
        error_type=row["error_type"],
        error=row["error"],
        traceback=row["traceback"],
        worker=row["worker"],
        times=1,
    )
