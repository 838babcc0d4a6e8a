"""How long the record of a job that has ended is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from saq.job import Job

from litestar_tasks.queues.base import Settlement

__all__ = ("SHORTEST_RECORD", "Limits", "record_ttl")

SHORTEST_RECORD: Final = 60
"""Seconds that every record is kept, so that an enqueue that is repeated finds that its job has run."""
_FAILED_TTL: Final = 7 * 86_400
"""Seconds that a job that failed or was aborted is kept, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a queue keeps of finished jobs, and how long."""

    complete: int = 10_000
    """Records of complete jobs. The cap wins over their ttl; without one a busy queue fills the server."""
    others: int = 100_000
    """Records of failed, and as many of aborted jobs."""
    failed_ttl: int = _FAILED_TTL
    """Seconds for which the record of a job that failed or was aborted is kept at least."""


def record_ttl(job: Job, settlement: Settlement, failed_ttl: int = _FAILED_TTL) -> int:
    """Seconds for which the record is kept: 0 for ever, negative: so long, but not listed.

    Args:
        job: The job that has ended.
        settlement: How.
        failed_ttl: What holds for the queue's failed and aborted jobs. Defaults to 7 days.
    """
    ttl = int(job.ttl)
    if settlement is not Settlement.COMPLETE:
        kept = job.meta.get("failed_ttl", failed_ttl) if job.meta else failed_ttl
        return 0 if ttl == 0 else max(ttl, int(kept), SHORTEST_RECORD)
    if ttl < 0:
        return -SHORTEST_RECORD
    return ttl and max(ttl, SHORTEST_RECORD)
