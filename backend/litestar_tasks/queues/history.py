"""What a job's record keeps of its past attempts, and how a job that has ended begins a new life."""

from __future__ import annotations

from typing import Any, Final

from saq.job import Job, Status
from saq.utils import now

from litestar_tasks.job import ENDED
from litestar_tasks.redaction import masked_end

__all__ = ("HISTORY", "begin_anew", "history", "remember")

HISTORY: Final = "history"
"""Where attempts are kept in a job's ``meta``: the last ten, oldest first. A job that is complete with its first
attempt has none."""

_KEPT: Final = 10
_ERROR: Final = 500
"""Characters of an error's last line."""
_TRACEBACK: Final = 2_000
"""Characters of a traceback. That of the last attempt is the record's own ``error``."""


def history(job: Job) -> list[dict[str, Any]]:
    """The attempts that a job's record keeps; of a record that somebody else wrote, what can be read as such."""
    kept = job.meta.get(HISTORY) if job.meta else None
    return [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []


def remember(
    job: Job,
    outcome: str,
    *,
    error: str | None,
    error_type: str | None = None,
    started: int,
    completed: int,
    worker: str | None,
) -> None:
    """Add an attempt that has ended to the record of its job. Snoozes that follow each other are one entry.

    Args:
        job: The job; its ``meta`` is replaced, not changed.
        outcome: How the attempt ended: "retry", "snooze", or how the job ended with it.
        error: The traceback or a sentence; the last line is kept, and, bounded, what is more than a line.
        error_type: The name of the exception's class. Defaults to None: there was none.
        started: When it was started, in ms; 0 for a job that ended without.
        completed: When it ended, in ms.
        worker: The worker's id.
    """
    text = masked_end(error.strip(), _TRACEBACK) if error else ""
    entry: dict[str, Any] = {
        "outcome": outcome,
        "error": text.rpartition("\n")[2][-_ERROR:] or None,
        "error_type": error_type,
        "traceback": text if "\n" in text else None,
        "started": started,
        "completed": completed,
        "worker": worker,
    }
    kept = history(job)
    if outcome == "snooze" and kept and kept[-1].get("outcome") == "snooze":
        entry["times"] = kept.pop().get("times", 1) + 1
    job.meta = {**(job.meta or {}), HISTORY: [*kept, entry][-_KEPT:]}


def begin_anew(job: Job) -> None:
    """Make the record of a job that has ended one of a job that has just been enqueued, with its history."""
    ended = (job.meta or {}).get(ENDED)
    how: dict[str, Any] = ended if isinstance(ended, dict) else {}
    remember(
        job,
        job.status.value,
        error=job.error,
        error_type=how.get("error_type"),
        started=job.started,
        completed=job.completed,
        worker=job.worker_id,
    )
    # Whoever runs it again wants it run, however late it is.
    job.meta = {name: value for name, value in job.meta.items() if name not in (ENDED, "expires")}
    job.status, job.attempts, job.progress, job.scheduled = Status.QUEUED, 0, 0.0, 0
    job.started = job.completed = job.touched = 0
    job.result = job.error = job.worker_id = None
    job.queued = now()
