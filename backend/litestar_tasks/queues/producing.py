"""Storing jobs: what the producers of all brokers have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from saq.job import Job

from litestar_tasks.exceptions import PayloadError
from litestar_tasks.job import Submission

__all__ = ("check_texts", "max_losses_of", "store_in_parts", "submission_of", "tag_of", "texts_of")

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


def tag_of(job: Job) -> str | None:
    """The tag of a job, if it has one."""
    tag = job.meta.get("tag") if job.meta else None
    return tag if isinstance(tag, str) else None


def texts_of(job: Job) -> tuple[tuple[str, str | None], ...]:
    """The texts of a job that a broker uses by themselves, beside its document."""
    return ("key", job.key), ("name", job.function), ("group_key", job.group_key), ("tag", tag_of(job))


def check_texts(job: Job) -> None:
    """Refuse a job that no broker could be told of, before it travels with others, which would be refused with it.

    Raises:
        PayloadError: A text is no Unicode: it holds half of a surrogate pair, which JSON alone can write.
    """
    plain = job.key.isascii() and job.function.isascii() and not job.group_key
    if plain and not (job.meta and "tag" in job.meta):
        return  # as nearly all are
    for what, text in texts_of(job):
        if text is None or text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadError(job.function, f"the job's {what} {text!r} is no Unicode text") from None
