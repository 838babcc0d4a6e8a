"""Jobs out of rows: the document as it was written last, and over it what the row knows better."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saq.job import Job, Status

from litestar_tasks.queues.records import UndecodableError, restore

if TYPE_CHECKING:
    from saq.queue.base import Queue

__all__ = ("job_of",)

logger = logging.getLogger("litestar_tasks.queues")


def job_of(queue: Queue, row: Sequence[Any]) -> Job | None:
    """The job of a row of key, document and ``statements.STATE``; None, with a line in the log, if it can't be read."""
    key, document, status, started, worker, scheduled = row
    try:
        job = restore(Job, queue, document, key=key)
    except UndecodableError as error:
        logger.warning("queue %r: the record of %s can't be read: %s", queue.name, queue.job_id(key), error)
        return None
    job.status = Status(status)
    if status == "active":
        job.started, job.worker_id = started, worker
    elif status == "queued":
        job.started, job.worker_id = 0, None
        if scheduled is not None:
            job.scheduled = scheduled
    return job
