"""Fires the registry's schedules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from litestar_tasks.exceptions import QueueUnavailableError

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry
    from litestar_tasks.schedule import Schedule

__all__ = ("Scheduler",)

logger = logging.getLogger("litestar_tasks.scheduler")

_LONGEST_SLEEP: Final = 60.0  # so that a clock that was set is noticed
_AGAIN: Final = 1.0


class Scheduler:
    """Enqueues a job at each firing of each schedule.

    Every worker process has one, and all reckon the same firings: the job's key is made of the schedule and the
    firing, so that the first one enqueues it and the others find it there. Firings that were missed while no worker
    ran are not made up for.

    Args:
        registry: The tasks and their schedules.
        find: Returns a queue by its label.
    """

    def __init__(self, registry: Registry, find: Callable[[str], TaskQueue]) -> None:
        self._registry = registry
        self._find = find

    async def run(self) -> None:
        """Fire until cancelled."""
        schedules = self._registry.get_schedules()
        now = datetime.now(UTC)
        upcoming = {schedule.id: schedule.next_after(now) for schedule in schedules}
        while schedules:
            now = datetime.now(UTC)
            refused = False
            for schedule in schedules:
                firing = upcoming[schedule.id]
                if firing > now:
                    continue
                if await self._fire(schedule, firing):
                    # From now, not from the firing: after a suspended night there is no flood of old ones.
                    upcoming[schedule.id] = schedule.next_after(max(now, firing))
                else:
                    refused = True
            wait = (min(upcoming.values()) - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(_AGAIN if refused else min(_LONGEST_SLEEP, max(0.0, wait)))
        await asyncio.Event().wait()

    async def _fire(self, schedule: Schedule, firing: datetime) -> bool:
        task = self._registry.get_task(schedule.task)
        spec = replace(
            task.spec((), schedule.kwargs),
            key=f"{schedule.id}@{firing:%Y%m%dT%H%M%SZ}",
            once=True,
        )
        try:
            submission = await self._find(task.option("queue")).submit(spec)
        except QueueUnavailableError as error:
            if datetime.now(UTC) - firing > timedelta(minutes=5):
                logger.error("schedule %r missed its firing of %s: %s", schedule.id, firing, error)
                return True
            return False
        if not submission.deduplicated:
            logger.info("schedule %r fired for %s (job %s)", schedule.id, firing, submission.job.id)
        return True
