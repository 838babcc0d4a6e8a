"""Storing jobs on a server: what the producers of Redis and of Postgres have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from saq.job import Job

from litestar_tasks.job import Submission

__all__ = ("max_losses_of", "store_in_parts", "submission_of")

PartT = TypeVar("PartT")


async def store_in_parts(
    parts: Iterable[PartT], store: Callable[[PartT], Coroutine[Any, Any, list[Submission]]]
) -> list[Submission]:
    """Store parts in order. While the server stores one, the next one is being made.

    Args:
        parts: Makes them, one at a time.
        store: Stores one.
    """
    submissions: list[Submission] = []
    flight: asyncio.Task[list[Submission]] | None = None
    try:
        for part in parts:
            if flight is not None:
                submissions += await flight
            flight = asyncio.create_task(store(part))
            await asyncio.sleep(0)  # so that it is on its way before the next part is made
        if flight is not None:
            submissions += await flight
    finally:
        if flight is not None and not flight.done():
            flight.cancel()
            await asyncio.gather(flight, return_exceptions=True)
    return submissions


def submission_of(job: Job, stored: Job, *, sent: bool) -> Submission:
    """What came of a job whose key is taken.

    Args:
        job: The job.
        stored: What is stored under its key.
        sent: Whether that may be this very job, of which an earlier attempt was not answered.
    """
    ours = sent and (stored.queued, stored.function, stored.kwargs) == (job.queued, job.function, job.kwargs)
    return Submission(job if ours else stored, deduplicated=not ours)


def max_losses_of(job: Job) -> int:
    """With the loss of how many workers a job is failed; 0 where the queue decides."""
    if not (meta := job.meta):
        return 0
    return 1 if meta.get("at_most_once") else meta.get("max_losses", 0)
