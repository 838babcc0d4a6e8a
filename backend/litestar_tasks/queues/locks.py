"""The lock of a job, as its record keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
from saq.job import Job

from litestar_tasks.uniqueness import Lock

__all__ = ("LOCK", "lock_anew", "lock_of")

LOCK: Final = "lock"
"""Where a job's ``meta`` keeps its lock."""


def lock_of(job: Job) -> Lock | None:
    """The lock that a job takes; None where it takes none, or its record holds what is none."""
    stored = job.meta.get(LOCK) if job.meta else None
    if stored is None:
        return None
    try:
        lock = msgspec.convert(stored, Lock, strict=True)
    except msgspec.ValidationError:
        return None
    return lock if len(lock.name) == 32 and not set(lock.name) - set("0123456789abcdef") else None


def lock_anew(job: Job) -> Lock | None:
    """The lock that a job takes which has ended and is to be run again.

    That of ``unique``, without its window. What an operator runs again is not replaced by a further call.
    """
    lock = lock_of(job)
    if lock is None or lock.debounce or lock.until == "enqueued":
        return None
    return replace(lock, window=0)
