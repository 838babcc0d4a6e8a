"""Fires the schedules of the queues that a worker process serves."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.firing import fire_due

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.schedule_book import QueueSchedules

__all__ = ("Scheduler",)

logger = logging.getLogger("litestar_tasks.scheduler")

_LONGEST_SLEEP: Final = 1.0
"""Seconds until a schedule is noticed that another process has added or changed, where nobody could say so."""
_ADVERTISE: Final = 3.0
_LEASE: Final = 15.0
_SCATTER: Final = 0.005
"""Seconds within which the workers of a queue wake up, so that they do not all ask at once."""
_SET_BACK: Final = 60.0
_RECKON: Final = 60.0
"""Seconds after which what is declared is compared anew with what the broker has: it may have lost some of it."""
_RECKONING: Final = 0.001
"""Of the time, what that may take at the most: for thousands of schedules the pause is longer."""


class Scheduler:
    """Looks after the schedules of an application, as each of its workers does.

    It sleeps until the next firing of a queue, by the broker's clock, and fires what is due there. Every queue's
    schedules are kept as this release declares them, as long as it is the youngest one with a worker; those of the
    queues that are served here are fired here.

    Args:
        schedules: The schedules.
        queues: The queues by label.
        served: The labels of those whose schedules are fired.
    """

    def __init__(self, schedules: QueueSchedules, queues: Mapping[str, TaskQueue], served: Collection[str]) -> None:
        self._schedules = schedules
        self._queues = dict(queues)
        self._served = frozenset(served)
        self._holder = token_hex(8)
        self._digest = schedules.digest()

    async def run(self) -> None:
        """Fire until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for queue in self._queues.values():
                    tasks.create_task(self._look_after(queue), name=f"schedules-{queue.label}")
        finally:
            for queue in self._queues.values():
                try:
                    await asyncio.shield(queue.schedules.withdraw(self._holder))
                except QueueUnavailableError:
                    pass  # it is forgotten by itself

    async def _look_after(self, queue: TaskQueue) -> None:
        loop = asyncio.get_running_loop()
        advertise, reckon, offset, any_before = 0.0, 0.0, None, False
        while True:
            changes = queue.schedules.changes
            try:
                if loop.time() >= advertise:
                    winner = await queue.schedules.advertise(self._holder, self._digest, _LEASE)
                    advertise = loop.time() + _ADVERTISE
                    if winner != self._digest:
                        reckon = 0.0
                    elif loop.time() >= reckon:
                        began = loop.time()
                        await self._schedules.reconcile(queue)
                        reckon = loop.time() + max(_RECKON, (loop.time() - began) / _RECKONING)
                if queue.label not in self._served:
                    await asyncio.sleep(_ADVERTISE)
                    continue
                asked = loop.time()
                look = await fire_due(queue)
                before, offset = offset, look.now / 1000 - asked
                if before is not None and offset < before - _SET_BACK:
                    logger.warning("queue %r: the broker's clock was set back by %d s", queue.label, before - offset)
                    reckon = advertise = 0.0  # whose release it is reckons them anew
                any_now = bool(look.due) or look.following is not None
                if any_before and not any_now:
                    reckon = advertise = 0.0  # nothing will fire any more, perhaps as the broker has forgotten it
                any_before = any_now
                wait = 0.0
                if not look.due:
                    until = (
                        look.following / 1000 - offset - loop.time() if look.following is not None else _LONGEST_SLEEP
                    )
                    wait = min(_LONGEST_SLEEP, max(0.0, until)) + random.uniform(0, _SCATTER)  # noqa: S311  # no secret
            except QueueUnavailableError as error:
                logger.debug("queue %r: its schedules wait for the broker: %s", queue.label, error)
                wait = _LONGEST_SLEEP
            except Exception:
                logger.exception("queue %r: an unforeseen error while firing schedules", queue.label)
                wait = _LONGEST_SLEEP
            await queue.schedules.wait(wait, changes)
