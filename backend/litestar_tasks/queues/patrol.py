"""Finding what has no owner any more: the jobs of lost workers, and claims that nobody knows of."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final

from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.presence import Process

__all__ = ("LOOK", "Patrol")

logger = logging.getLogger("litestar_tasks.queues")

LOOK: Final = 1.0
"""Seconds between two looks at the processes of this machine."""


class Patrol(ABC):
    """Looks for lost workers, as every worker does; the first to look finds them.

    A worker is lost when its lease has lapsed, or, to those who share its machine, when its process has ended. Those
    look twice, and leave a lease alone that was renewed in between: what a process sent last can arrive after its end,
    and two machines that go back to one snapshot of a running one cannot be told apart.

    Args:
        queue: The queue's name on the wire.
        outage: Whether the server answers.
        lease: Seconds without a sign of life after which a worker counts as lost.
        here: This process, if it can be known.
    """

    _away: ClassVar[tuple[type[Exception], ...]]
    """What a server that does not answer raises."""

    def __init__(self, queue: str, outage: Outage, *, lease: float, here: Process | None) -> None:
        self._queue = queue
        self._outage = outage
        self._here = here
        self._seldom = lease / 3
        self._lock = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name=f"patrol-{self._queue}")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def hurry(self) -> None:
        """Look now: somebody has left jobs."""
        self._hurry.set()

    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""
        async with self._lock:
            return (await self._recover())[0]

    # What the broker does in its own way

    @abstractmethod
    async def _take(self) -> tuple[int, bool, float]:
        """Take jobs of one worker whose lease has lapsed.

        Returns:
            How many, whether there may be more, and in how many seconds it is worth looking again.
        """

    @abstractmethod
    async def _look(self, here: Process) -> None:
        """Take what workers of this machine left whose processes have ended."""

    @abstractmethod
    async def _audit(self) -> None:
        """Compare the claims that the server knows with those that are known here."""

    async def _tidy(self) -> None:  # noqa: B027  # not every broker leaves something to do
        """Remove what has had its time."""

    # Going round

    async def _recover(self) -> tuple[int, float]:
        taken, more, wait = 0, True, self._seldom
        while more:
            count, more, wait = await self._take()
            taken += count
        return taken, wait

    def _say_taken(self, worker: str, count: int, *, left: bool) -> None:
        logger.log(
            logging.INFO if left else logging.WARNING,
            "queue %r: worker %s %s; its %d jobs wait at the head again",
            self._queue,
            worker,
            "has ended" if left else "was lost",
            count,
        )

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._search, self._hurry))
            tasks.create_task(self._repeat(self._watch, asyncio.Event()))

    async def _repeat(self, step: Callable[[], Awaitable[float]], hurry: asyncio.Event) -> None:
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await hurry.wait()
            except TimeoutError:
                pass
            hurry.clear()
            try:
                pause = await step()
            except self._away as error:
                self._outage.failed(error)
                pause = 1.0
            except Exception:
                logger.exception("queue %r: an unforeseen error while looking for lost workers", self._queue)
                pause = self._seldom

    async def _watch(self) -> float:
        if self._here is not None:
            async with self._lock:
                await self._look(self._here)
        await self._tidy()
        return LOOK * random.uniform(0.9, 1.1)  # noqa: S311  # no secret

    async def _search(self) -> float:
        async with self._lock:
            _, wait = await self._recover()
            await self._audit()
        # Not all at once, and soon after the moment at which a lease would lapse.
        latest, chance = self._seldom, random.random()  # noqa: S311  # no secret
        return min(latest * (0.8 + 0.2 * chance), wait + 0.05 + latest / 10 * chance)
