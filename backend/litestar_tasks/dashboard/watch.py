"""How the queues fare, asked for once for all who look at the same time, so that a broker hardly notices them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.words import count
from litestar_tasks.queues.operations import STATES, JobFilter, JobState, Minute, Pause
from litestar_tasks.queues.reports import WorkerReport

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("Look", "Watch", "interval", "numbers")

_FRESH: Final = 1.0
"""Seconds for which an answer is good for others who ask."""
_OPEN: Final = timedelta(minutes=2)
"""Minutes that are younger may still change: workers write what they counted every five seconds."""


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
    minutes: dict[datetime, Minute] = field(default_factory=dict[datetime, Minute])
    since: datetime | None = None
    """From when on the minutes are known."""
    read: float = 0.0
    """When all of them were read."""
    refreshed: float = 0.0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


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
        known = self._known.setdefault(queue, _Known())
        async with known.looking:
            if known.look is None or time.monotonic() - known.looked > _FRESH:
                async with asking(queue):
                    known.look = await _look(queue)
                known.looked = time.monotonic()
            return known.look

    async def minutes(self, queue: TaskQueue, span: timedelta) -> list[Minute]:
        """How a queue fared of late, oldest minute first. What is over is asked for seldom.

        Raises:
            HTTPException: The broker did not answer.
        """
        if "metrics" not in queue.capabilities:
            return []
        known, now = self._known.setdefault(queue, _Known()), datetime.now(UTC)
        since = now - span
        async with known.reading, asking(queue):
            moment = time.monotonic()
            # Workers that could not reach the broker write late; hence all of it now and then.
            if known.since is None or since < known.since or moment - known.read > span.total_seconds() / 12:
                known.minutes = {minute.start: minute for minute in await queue.minutes(since, now)}
                known.since, known.read, known.refreshed = since, moment, moment
            elif moment - known.refreshed > _FRESH:
                known.minutes |= {minute.start: minute for minute in await queue.minutes(now - _OPEN, now)}
                known.refreshed = moment
        return [known.minutes[start] for start in sorted(known.minutes) if start >= since - timedelta(minutes=1)]


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
