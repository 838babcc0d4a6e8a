"""When queues are empty."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from litestar_tasks.exceptions import TasksError

if TYPE_CHECKING:
    from litestar_tasks.worker.worker import Worker

__all__ = ("until_empty",)

logger = logging.getLogger("litestar_tasks.worker")

_EVERY: Final = 0.2


async def until_empty(workers: Sequence[Worker], deliver: Callable[[], Awaitable[None]] | None = None) -> None:
    """Return when no job of these workers' queues is ready to run, or running, here or elsewhere.

    What other workers run is waited for, since it may be retried, handed back, or enqueue more. Jobs that are due later
    are not; those that become due meanwhile are. Nor is what waits in a queue that is paused.

    Args:
        workers: The workers.
        deliver: Awaited before each look: brings jobs that are not in the queues yet. Defaults to none.
    """
    # Twice, because a job of the last queue may have ended by enqueueing into the first one.
    looks: list[list[int]] = []
    while len(looks) < 2:
        if deliver is not None:
            await deliver()
        look = [await _left(worker) for worker in workers]
        if None in look:
            looks.clear()
            await asyncio.sleep(_EVERY)
        else:
            looks.append([waiting or 0 for waiting in look])
    for worker, waiting in zip(workers, looks[-1], strict=True):
        if waiting:
            more = " or more" if waiting == worker.queue.counted_up_to else ""
            logger.warning("queue %r is paused; %d%s jobs are left in it", worker.queue.name, waiting, more)


async def _left(worker: Worker) -> int | None:
    """How many ready jobs nobody will run; None while there are others, or the broker does not say."""
    if worker.running:
        return None
    try:
        counts = await worker.queue.counts()
        ready = counts["queued"]
        if counts["active"] or await worker.queue.owes() or (ready and await worker.queue.paused() is None):
            return None
    except TasksError:
        return None  # The queue itself says so in the log, and it will be back.
    return ready
