"""How a queue fared in the last day: read once, and then only what can have changed.

The last hour is known by the minute, as its charts show it, and what lies before it by the quarter of an hour, which
the broker adds up. Where many tasks run, all of that is too much for one answer: what is not read in no time is read
afterwards, bit by bit, and only in the first moments after a start is there anything to be seen of it.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.stats import SPANS, WIDTHS, Slice, Tally, by_task, slice_of

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("History", "Past")

_MINUTE: Final = WIDTHS["hour"]
_QUARTER: Final = WIDTHS["day"]
_HOUR: Final = SPANS["hour"]
_OPEN: Final = timedelta(minutes=1)
"""What ended later may still change: workers write what they counted every five seconds."""
_LATE: Final = timedelta(minutes=5)
"""Workers that could not reach the broker write late: so long after its end, a step is read once more."""
_FRESH: Final = 1.0
"""Seconds for which an answer is good for others who ask."""
_BUDGET: Final = 0.01
"""Seconds that may go into reading while somebody waits; the rest is read behind their back."""
_ROUND: Final = 2.0
"""Seconds that one round of reading on takes at the most."""
_MOST: Final = 8
"""Steps that are read at once at the most: what lies before an idle hour may be a busy one."""
_WORK: Final = 400
"""Tasks in all minutes that are read at once, roughly; in quarters a fourth of it. Between two such parts others have
their turn."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a span of time."""

    slices: Sequence[Slice]
    """By minute or by quarter of an hour, oldest first; those in which nothing ended are left out."""
    complete: bool
    """Whether all of it has been read."""


@dataclass(slots=True, eq=False)
class _Steps:
    """What is known of the past in steps of one width."""

    width: timedelta
    slices: dict[datetime, Slice] = field(default_factory=dict[datetime, Slice])
    """By their start, also those in which nothing ended."""
    read: dict[datetime, datetime] = field(default_factory=dict[datetime, datetime])
    """When each of them was."""
    _at_once: int = 1
    _busiest: int = 1
    """Tasks of a step at the most, so far."""

    def due(self, start: datetime, now: datetime, *, anew: bool) -> bool:
        """Whether a step is unknown, or, where it matters ``anew``, may have changed since it was read."""
        if (read := self.read.get(start)) is None:
            return True
        end = start + self.width
        return anew and (read < end + _OPEN or read < end + _LATE <= now)

    async def fetch(self, queue: TaskQueue, latest: Sequence[datetime]) -> Collection[datetime]:
        """Read the first of some steps, and those right before it, as many as make a small part. Returns which."""
        now, first, last = datetime.now(UTC), latest[0], latest[0]
        for start in latest[1 : self._at_once]:
            if start != first - self.width:
                break
            first = start
        async with asking(queue):
            found = await queue.minutes(first, last + self.width - _MINUTE, every=self.width // _MINUTE)
        tasks = {one.start: one.tasks for one in found}
        starts = [first + self.width * at for at in range((last - first) // self.width + 1)]
        for start in starts:
            self.slices[start], self.read[start] = slice_of(start, tasks.get(start, {})), now
        self._busiest = max(self._busiest, *map(len, tasks.values()), 1)
        enough = _WORK // (self._busiest * (1 if self.width == _MINUTE else 4))
        self._at_once = max(1, min(_MOST, enough, 2 * self._at_once))
        return starts

    def forget(self, before: datetime) -> None:
        """Let go of what nobody asks for any more."""
        for start in [start for start in self.read if start < before]:
            del self.slices[start], self.read[start]


class _Sums:
    """What slices add up to by task, group by group: reckoned anew only where a slice is another one than before."""

    def __init__(self) -> None:
        self._known: dict[datetime, tuple[list[Slice], Mapping[str, Tally]]] = {}

    def of(self, groups: Mapping[datetime, list[Slice]]) -> Mapping[str, Tally]:
        """All of it, by task."""
        found: dict[datetime, tuple[list[Slice], Mapping[str, Tally]]] = {}
        for key, slices in groups.items():
            before = self._known.get(key)
            same = before and len(before[0]) == len(slices) and all(map(operator.is_, before[0], slices))
            found[key] = before if before and same else (slices, by_task(one.tasks for one in slices))
        self._known = found
        return by_task(tasks for _, tasks in found.values())


_Step: TypeAlias = tuple[_Steps, datetime]


class History:
    """One queue's last day."""

    def __init__(self) -> None:
        self._minutes = _Steps(_MINUTE)
        self._quarters = _Steps(_QUARTER)
        self._missing: list[_Step] = []
        """What was asked for and could not be read while somebody waited, the latest first."""
        self._refreshed = 0.0
        self._reading = asyncio.Lock()
        self._catching_up = False
        self._sums = _Sums()

    @property
    def behind(self) -> bool:
        """Whether somebody asked for more than could be read so far."""
        return bool(self._missing)

    async def past(self, queue: TaskQueue, span: str) -> Past:
        """How the queue fared in the last hour or day, as far as it could be read in no time.

        Raises:
            HTTPException: The broker did not answer.
        """
        async with self._reading:
            now, started = datetime.now(UTC), time.monotonic()
            self._minutes.forget(_by_minute_since(now))
            self._quarters.forget(_quarter_of(now - SPANS["day"]))
            wanted = self._steps(span, now)
            anew = started - self._refreshed > _FRESH
            due = [(steps, start) for steps, start in wanted if steps.due(start, now, anew=anew)]
            while due and time.monotonic() - started <= _BUDGET:
                due = await _fetch(queue, due)
            if anew:
                self._refreshed = started
        # An hour that is known says nothing of the day that somebody else waits for.
        others = [(steps, start) for steps, start in self._missing if start not in steps.slices]
        self._missing = list(dict.fromkeys([*due, *others]))
        known = [found for steps, start in reversed(wanted) if (found := steps.slices.get(start)) is not None]
        return Past([one for one in known if one.tasks], len(known) == len(wanted))

    async def whole(self, queue: TaskQueue, span: str) -> Past:
        """The same, however long it takes to read.

        Raises:
            HTTPException: The broker did not answer.
        """
        while not (past := await self.past(queue, span)).complete:
            await self.catch_up(queue)
        return past

    async def catch_up(self, queue: TaskQueue) -> None:
        """Read on for a moment where ``past`` had to stop, and leave half of the time to others.

        Raises:
            HTTPException: The broker did not answer.
        """
        if self._catching_up:
            return
        self._catching_up, started = True, time.monotonic()
        try:
            while self._missing and (asked := time.monotonic()) - started < _ROUND:
                left = await _fetch(queue, self._missing)
                self._missing = [one for one in self._missing if one in left]
                await asyncio.sleep(time.monotonic() - asked)
        finally:
            self._catching_up = False

    async def tasks(self, queue: TaskQueue) -> Mapping[str, Tally]:
        """How each task fared in the last day."""
        await self.past(queue, "day")
        groups: dict[datetime, list[Slice]] = {}
        for start, one in self._quarters.slices.items():
            groups.setdefault(start.replace(hour=start.hour // 6 * 6, minute=0), []).append(one)
        for start, one in self._minutes.slices.items():
            groups.setdefault(_quarter_of(start), []).append(one)
        return self._sums.of(groups)

    def _steps(self, span: str, now: datetime) -> list[_Step]:
        """What a span consists of, the latest first."""
        middle, minute = _by_minute_since(now), now.replace(second=0, microsecond=0)
        if span == "hour":
            return [(self._minutes, minute - _MINUTE * back) for back in range(_HOUR // _MINUTE)]
        minutes = [(self._minutes, minute - _MINUTE * back) for back in range((minute - middle) // _MINUTE + 1)]
        quarters = (middle - _quarter_of(now - SPANS["day"])) // _QUARTER
        return minutes + [(self._quarters, middle - _QUARTER * (back + 1)) for back in range(quarters)]


async def _fetch(queue: TaskQueue, due: Sequence[_Step]) -> list[_Step]:
    """Read the first of what is due and some right behind it. Returns what is left."""
    steps = due[0][0]
    read = await steps.fetch(queue, [start for own, start in due if own is steps])
    return [(own, start) for own, start in due if own is not steps or start not in read]


def _by_minute_since(now: datetime) -> datetime:
    """From when on the past is known by the minute."""
    return _quarter_of(now - _HOUR)


def _quarter_of(moment: datetime) -> datetime:
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
