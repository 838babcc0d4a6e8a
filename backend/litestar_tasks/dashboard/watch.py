"""How the queues fare, asked for once for all who look at the same time, so that a broker hardly notices them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from litestar.exceptions import HTTPException

from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.history import History, Past
from litestar_tasks.dashboard.stats import Tally, by_task
from litestar_tasks.dashboard.words import count
from litestar_tasks.queues.operations import STATES, JobFilter, JobState, Pause
from litestar_tasks.queues.reports import WorkerReport

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("Look", "Watch", "interval", "numbers")

_FRESH: Final = 1.0
"""Seconds for which an answer is good for others who ask."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a queue stands."""

    label: str
    counts: Mapping[JobState, int]
    pause: Pause | None
    workers: list[WorkerReport]
    oldest: datetime | None
    """Since when the job has been waiting that is claimed next; None where none waits."""
    cap: int | None
    """Where its broker stops counting; None where it counts all."""

    def number(self, state: JobState) -> str:
        """How many jobs are in a state, in words: "12", "10 000+"."""
        return numbers([self])[state]

    @property
    def alive(self) -> list[WorkerReport]:
        """The workers that are heard of."""
        return [worker for worker in self.workers if not worker.lost]


@dataclass(slots=True)
class _Known:
    look: Look | None = None
    looked: float = 0.0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    history: History = field(default_factory=History)


class Watch:
    """Looks at queues, and remembers for a moment what it saw."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[TaskQueue, _Known] = WeakKeyDictionary()

    def forget(self, queue: TaskQueue) -> None:
        """Something was changed: look again."""
        if (known := self._known.get(queue)) is not None:
            known.looked = 0.0

    async def looks(self, queues: Iterable[TaskQueue]) -> list[Look]:
        """How these queues stand."""
        return await asyncio.gather(*map(self.look, queues))

    async def look(self, queue: TaskQueue) -> Look:
        """How a queue stands, as of at most a second ago.

        Raises:
            HTTPException: The broker did not answer.
        """
        known = self._known_of(queue)
        async with known.looking:
            if known.look is None or time.monotonic() - known.looked > _FRESH:
                async with asking(queue):
                    known.look = await _look(queue)
                known.looked = time.monotonic()
            return known.look

    async def past(self, queues: Iterable[TaskQueue], span: str, *, whole: bool = False) -> dict[str, Past]:
        """How these queues fared in the last hour or day, by their labels.

        Args:
            queues: Which.
            span: "hour" or "day".
            whole: Whether to wait for all of it. Defaults to False: what can be read in no time.

        Raises:
            HTTPException: The broker did not answer.
        """
        counting = [queue for queue in queues if "metrics" in queue.capabilities]
        histories = [self._known_of(queue).history for queue in counting]
        asked = [
            (one.whole if whole else one.past)(queue, span) for one, queue in zip(histories, counting, strict=True)
        ]
        found = await asyncio.gather(*asked)
        return {queue.label: past for queue, past in zip(counting, found, strict=True)}

    async def tasks(self, queues: Iterable[TaskQueue]) -> dict[str, Tally]:
        """How each task fared in the last day, in these queues together."""
        counting = [queue for queue in queues if "metrics" in queue.capabilities]
        return by_task([await self._known_of(queue).history.tasks(queue) for queue in counting])

    def behind(self) -> bool:
        """Whether somebody asked for more of the past than could be read so far."""
        return any(known.history.behind for known in self._known.values())

    async def catch_up(self) -> None:
        """Read on, after an answer was sent. Who asks next is told where a broker is away."""
        for queue, known in list(self._known.items()):
            if known.history.behind:
                with suppress(HTTPException):
                    await known.history.catch_up(queue)

    def _known_of(self, queue: TaskQueue) -> _Known:
        return self._known.setdefault(queue, _Known())


def numbers(looks: Sequence[Look]) -> dict[JobState, str]:
    """How many jobs are in each state of these queues together, in words: "12", "10 000+"."""
    found: dict[JobState, str] = {}
    for state in STATES:
        capped = any(look.cap is not None and look.counts[state] >= look.cap for look in looks)
        found[state] = count(sum(look.counts[state] for look in looks)) + ("+" if capped else "")
    return found


def interval(queues: int) -> float:
    """Seconds between two looks of a page that is open, for a broker with so many queues."""
    return max(2.5, queues / 2)


async def _look(queue: TaskQueue) -> Look:
    counts, pause, workers = await asyncio.gather(queue.counts(), queue.paused(), queue.workers())
    oldest = None
    if counts["queued"]:
        page = await queue.page(JobFilter(state="queued", newest_first=False), limit=1)
        for job in page.jobs:
            oldest = datetime.fromtimestamp(max(job.queued / 1000, job.scheduled), UTC)
    return Look(queue.label, counts, pause, workers, oldest, queue.counted_up_to)
