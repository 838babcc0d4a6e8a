"""Fires what is due in one queue."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from litestar_tasks.exceptions import InvalidScheduleError
from litestar_tasks.moments import moment_of
from litestar_tasks.queues.locks import lock_of
from litestar_tasks.queues.schedule_book import UNFINISHED
from litestar_tasks.queues.schedule_records import ScheduleRecord

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.schedules import Look

__all__ = ("fire_due",)

logger = logging.getLogger("litestar_tasks.scheduler")

_TOGETHER: Final = 100
_UNREADABLE: Final = 60_000
"""Time (ms) after which a record is looked at again that could not be read."""


async def fire_due(queue: TaskQueue) -> Look:
    """Fire what is due, as far as one look finds it, and return that look.

    Each one is moved on and enqueued in a step of its own, which one of all that try makes. One that cannot be fired
    keeps no other one from it.

    Raises:
        QueueUnavailableError: The broker did not answer; what was not fired stays due.
    """
    look = await queue.schedules.look(_TOGETHER)
    if look.due:
        answers = await asyncio.gather(
            *(_fire(queue, id, seen, look.now) for id, seen in look.due), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
    return look


async def _fire(queue: TaskQueue, id: str, seen: bytes, now: int) -> None:
    try:
        record = ScheduleRecord.decode(seen)
        schedule = record.schedule(id)
    except (ValueError, InvalidScheduleError) as error:
        logger.error("queue %r: schedule %r cannot be fired, as its record cannot be read: %s", queue.label, id, error)
        await queue.schedules.swap(id, seen, seen, now + _UNREADABLE, None)
        return
    watched = record.job if schedule.overlap != "allow" else None
    busy = watched is not None and await queue.status(watched) in UNFINISHED
    new, due, slot = record.fire(schedule, now, busy=busy)
    job = None
    if slot is not None:
        try:
            job = await queue.prepare(record.spec(schedule, slot, now))
            job.queued = now
        except Exception as error:  # a hook of the application's
            logger.exception("schedule %r could not be fired for %s", id, moment_of(slot))
            new = record.failed(schedule, now, f"{type(error).__name__}: {error}")
            due = new.due(schedule)
    if not await queue.schedules.swap(id, seen, new.encode(), due, job):
        return  # another worker was first, or somebody has changed it
    if job is not None and lock_of(job) is not None and await queue.status(job.key) is None:
        stored, new, job = new, new.left_out(record), None
        await queue.schedules.swap(id, stored.encode(), new.encode(), due, None)
    if job is not None:
        logger.info("schedule %r fired for %s (job %s)", id, moment_of(slot or 0), job.id)
    elif new.skips > record.skips and new.last is not None:
        logger.warning("schedule %r skipped its firing of %s: %s", id, moment_of(new.last.slot), new.last.skipped)
