from __future__ import annotations

from typing import Any

from msgspec import Struct

from litestar_tasks import JobStatus

__all__ = ("Enqueued", "JobView")


class Enqueued(Struct):
    """Work that will be done: ask for it at /jobs/{job_id}."""

    job_id: str


class JobView(Struct):
    id: str
    status: JobStatus
    progress: float
    """From 0.0 to 1.0, for tasks that say how far they have come."""
    result: Any = None
    """What the task returned, once the status is "complete"."""
