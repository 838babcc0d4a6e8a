"""Enqueueing what follows jobs that have ended, by whichever worker of their queue is the first to look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from litestar_tasks.exceptions import BrokerError, QueueUnavailableError

__all__ = ("Relay",)

logger = logging.getLogger("litestar_tasks.queues")

_LAST: Final = 2.0
_PATIENCE: Final = 30
"""Failures, a second apart, after which the log names them: an outage is the queue's own to say."""


class Relay:
    """Looks for what is owed, every few seconds and when it is told that there is something.

    That a job has follow-ups which nobody has enqueued yet is written down in the step that ends it. The worker that
    ended it is told at once; should it die in between, another one finds it.

    Args:
        queue: The queue's name, for the log.
        deliver: Enqueues some of what is owed, each exactly once though several do it at the same time; answers whether
            there may be more.
        every: Seconds between two looks.
    """

    def __init__(self, queue: str, deliver: Callable[[], Awaitable[bool]], *, every: float) -> None:
        self._queue = queue
        self._deliver = deliver
        self._every = every
        self._told = asyncio.Event()
        self._delivering = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name=f"relay-{self._queue}")

    def tell(self) -> None:
        """Something is owed."""
        self._told.set()

    async def close(self) -> None:
        """Stop looking, after a last look if something is known to be owed: this may be the last worker for long."""
        known = self._told.is_set() or self._delivering
        self._closing = True  # for a client that answers a cancellation with an error of its own
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if known:
            with suppress(TimeoutError, BrokerError, QueueUnavailableError):
                async with asyncio.timeout(_LAST):
                    while await self._deliver():
                        pass

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._told.clear()
            self._delivering = True
            try:
                while await self._deliver():
                    pass
                self._delivering, failures = False, 0
            except (BrokerError, QueueUnavailableError) as error:
                failures += 1
                if failures == _PATIENCE:
                    logger.warning("queue %r: follow-ups still cannot be enqueued: %s", self._queue, error)
                await asyncio.sleep(1.0)
                continue
            except Exception:
                logger.exception("queue %r: an unforeseen error while enqueueing follow-ups", self._queue)
                await asyncio.sleep(self._every)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._told.wait()
