"""What follows a job that has ended: the calls that were stored with it, as jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from saq.job import Job, Status

from litestar_tasks.correlation import CORRELATION
from litestar_tasks.follow_ups import FOLLOW_UPS, PARENT
from litestar_tasks.job import ENDED, JobSpec
from litestar_tasks.uniqueness import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("apply_to_follow_ups", "has_follow_ups", "queues_of_follow_ups", "successors")


def has_follow_ups(job: Job) -> bool:
    """Whether anything is to follow the job, however it ends."""
    return bool(job.meta) and FOLLOW_UPS in job.meta


def successors(job: Job) -> Iterator[tuple[str, JobSpec]]:
    """What follows a job now that it has ended, each with the label of its queue.

    Their keys, unless they were given, are made of the job and the moment of its end. So whoever makes them again makes
    the same ones, and the next life of the job, if an operator runs it again, makes others.
    """
    known = job.meta.get(FOLLOW_UPS) if job.meta else None
    end = _end_of(job)
    if not isinstance(known, dict) or end is None:
        return
    for number, stored in enumerate(known.get(end, ())):
        yield stored["queue"], _spec(job, stored, f"{end} {number}")


def apply_to_follow_ups(spec: JobSpec, change: Callable[[JobSpec], None]) -> None:
    """Let hooks see the calls that are stored with a call: from here on nobody else will be asked about them."""
    stored: dict[str, Any] = spec.meta[FOLLOW_UPS]
    spec.meta = {
        **spec.meta,
        FOLLOW_UPS: {end: [_changed(one, change) for one in calls] for end, calls in stored.items()},
    }


def queues_of_follow_ups(spec: JobSpec) -> set[str]:
    """The labels of the queues to which the calls that are stored with a call will go."""
    return {one["queue"] for calls in spec.meta[FOLLOW_UPS].values() for one in calls}


def _changed(stored: dict[str, Any], change: Callable[[JobSpec], None]) -> dict[str, Any]:
    spec = JobSpec(task=stored["task"], **{name: stored[name] for name in _FIELDS if name in stored})
    change(spec)
    return {**stored, "task": spec.task, **{name: getattr(spec, name) for name in _FIELDS}}


_FIELDS = ("kwargs", "key", "timeout", "max_attempts", "ttl", "priority", "group", "meta")


def _end_of(job: Job) -> str | None:
    """Which of the follow-ups apply. A job that was found pointless, by its own task, has none."""
    if job.status is Status.COMPLETE:
        return "success"
    ended = job.meta.get(ENDED)
    return None if isinstance(ended, dict) and ended.get("reason") == "discarded" else "failure"


def _spec(job: Job, stored: dict[str, Any], what: str) -> JobSpec:
    handed = {"result": job.result, "error": job.error or ""}
    moment = max(job.completed / 1000 + stored.get("delay", 0), stored.get("run_at", 0))
    meta = {**stored.get("meta", {}), PARENT: job.id}
    if CORRELATION in job.meta:
        meta.setdefault(CORRELATION, job.meta[CORRELATION])
    if (expires := stored.get("expires")) is not None:
        meta["expires"] = round(moment + expires, 3)
    key = hashlib.sha256(f"{job.id} {job.completed} {what}".encode()).hexdigest()[:32]
    fields: dict[str, Any] = {name: stored[name] for name in _FIELDS if stored.get(name) is not None}
    fields["kwargs"] = {**stored["kwargs"], **{name: handed[one] for name, one in stored.get("takes", {}).items()}}
    fields["meta"] = meta
    if (lock := stored.get("lock")) is not None:
        deadline = round(job.completed / 1000 + stored["put_off"], 3) if stored.get("put_off") else 0
        fields["lock"] = replace(Lock(**lock), deadline=deadline)
    fields["run_at"] = datetime.fromtimestamp(moment, UTC) if moment > job.completed / 1000 else None
    fields.setdefault("key", key)
    return JobSpec(task=stored["task"], **fields)
