"""What a job's record keeps of its past attempts, and how a job that has ended begins a new life."""

from __future__ import annotations

from typing import Any, Final

from saq.job import Job, Status
from saq.utils import now

__all__ = ("HISTORY", "begin_anew", "history", "remember")

HISTORY: Final = "history"
"""Where attempts are kept in a job's ``meta``: the last ten, oldest first. A job that is complete with its first
attempt has none."""

_KEPT: Final = 10
_ERROR: Final = 500
"""Characters of an error. The whole traceback of the last attempt is the record's own ``error``."""


def history(job: Job) -> list[dict[str, Any]]:
    """The attempts that a job's record keeps; of a record that somebody else wrote, what can be read as such."""
    kept = job.meta.get(HISTORY) if job.meta else None
    return [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []


def remember(job: Job, outcome: str, *, error: str | None, started: int, completed: int, worker: str | None) -> None:
    """Add an attempt that has ended to the record of its job.

    Args:
        job: The job; its ``meta`` is replaced, not changed.
        outcome: How the attempt ended: "retry", or the status in which it left the job.
        error: The traceback, of which the last line is kept.
        started: When it was started, in ms; 0 for a job that ended without.
        completed: When it ended, in ms.
        worker: The worker's id.
    """
    entry = {
        "outcome": outcome,
        "error": error.strip().rpartition("\n")[2][-_ERROR:] if error else None,
        "started": started,
        "completed": completed,
        "worker": worker,
    }
    job.meta = {**(job.meta or {}), HISTORY: [*history(job), entry][-_KEPT:]}


def begin_anew(job: Job) -> None:
    """Make the record of a job that has ended one of a job that has just been enqueued, with its history."""
    remember(
        job,
        job.status.value,
        error=job.error,
        started=job.started,
        completed=job.completed,
        worker=job.worker_id,
    )
    job.status, job.attempts, job.progress, job.scheduled = Status.QUEUED, 0, 0.0, 0
    job.started = job.completed = job.touched = 0
    job.result = job.error = job.worker_id = None
    job.queued = now()
