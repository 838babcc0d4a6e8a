"""How a queue fared in the last day: read once, a quarter of an hour at a time, and then only what can have changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.stats import SPANS, WIDTHS, Slice, Tally, by_task, joined

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.operations import Minute

__all__ = ("History", "Past")

_QUARTER: Final = timedelta(minutes=15)
_MINUTE: Final = timedelta(minutes=1)
_OPEN: Final = timedelta(minutes=2)
"""Minutes that are younger may still change: workers write what they counted every five seconds."""
_LATE: Final = timedelta(minutes=5)
"""Workers that could not reach the broker write late: so long after its end a piece is read once more."""
_FRESH: Final = 1.0
"""Seconds for which an answer is good for others who ask."""
_BUDGET: Final = 0.01
"""Seconds that may go into reading what is missing while somebody waits; the rest is read behind their back."""
_ROUND: Final = 2.0
"""Seconds that one round of reading on takes at the most."""
_PART: Final = timedelta(minutes=5)
"""So much is read at once behind somebody's back. Between two parts others have their turn."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a span of time."""

    slices: Sequence[Slice]
    """By minute or by quarter of an hour, oldest first; those in which nothing ended are left out."""
    complete: bool
    """Whether all of it has been read."""


@dataclass(slots=True)
class _Piece:
    minutes: dict[datetime, Slice]
    whole: Slice
    read: datetime


@dataclass(slots=True)
class History:
    """One queue's last day."""

    _pieces: dict[datetime, _Piece] = field(default_factory=dict[datetime, _Piece])
    _refreshed: float = 0.0
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _catching_up: bool = False
    _missing: Sequence[datetime] = ()
    """What was asked for and could not be read while somebody waited, the latest first."""
    _version: int = 0
    _by_task: tuple[int, datetime, Mapping[str, Tally]] | None = None

    @property
    def behind(self) -> bool:
        """Whether somebody asked for more than could be read so far."""
        return bool(self._missing)

    async def past(self, queue: TaskQueue, span: str) -> Past:
        """How the queue fared in the last hour or day, as far as it could be read in no time.

        Raises:
            HTTPException: The broker did not answer.
        """
        now = datetime.now(UTC)
        wanted = _quarters(now - SPANS[span], now)
        async with self._reading:
            started = time.monotonic()
            if started - self._refreshed > _FRESH:
                async with asking(queue):
                    await self._refresh(queue, now)
                self._refreshed = started
            for quarter in filter(self._is_missing, reversed(wanted)):
                if time.monotonic() - started > _BUDGET:
                    break
                async with asking(queue):
                    self._keep(quarter, await queue.minutes(quarter, quarter + _QUARTER - _MINUTE), now)
        self._forget(now)
        pieces = [self._pieces[quarter] for quarter in wanted if quarter in self._pieces]
        if WIDTHS[span] == _MINUTE:
            since = now - SPANS[span] - _MINUTE
            slices = [one for piece in pieces for start, one in sorted(piece.minutes.items()) if start > since]
        else:
            slices = [piece.whole for piece in pieces if piece.whole.tasks]
        missing = [quarter for quarter in reversed(wanted) if self._is_missing(quarter)]
        # An hour that is known says nothing of the day that somebody else waits for.
        self._missing = missing or [quarter for quarter in self._missing if self._is_missing(quarter)]
        return Past(slices, len(pieces) == len(wanted))

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
            for quarter in self._missing:
                found: list[Minute] = []
                now = datetime.now(UTC)
                for part in range(_QUARTER // _PART):
                    asked = time.monotonic()
                    if asked - started > _ROUND:
                        return
                    since = quarter + _PART * part
                    async with asking(queue):
                        found += await queue.minutes(since, since + _PART - _MINUTE)
                    await asyncio.sleep(time.monotonic() - asked)
                self._keep(quarter, found, now)
            self._missing = [quarter for quarter in self._missing if self._is_missing(quarter)]
        finally:
            self._catching_up = False

    async def tasks(self, queue: TaskQueue) -> Mapping[str, Tally]:
        """How each task fared in the last day."""
        past = await self.past(queue, "day")
        latest = max(self._pieces, default=datetime.now(UTC))
        older = [one for one in past.slices if one.start != latest]
        if self._by_task is None or self._by_task[:2] != (self._version, latest):
            self._by_task = (self._version, latest, by_task(older))
        return by_task([one for one in past.slices if one.start == latest], self._by_task[2])

    async def _refresh(self, queue: TaskQueue, now: datetime) -> None:
        """Read the minutes anew that may have changed since they were."""
        fresh = await queue.minutes(now - _OPEN, now)
        for quarter in {_quarter_of(minute.start) for minute in fresh} & self._pieces.keys():
            piece = self._pieces[quarter]
            found = {one.start: joined(one.start, [one]) for one in fresh if _quarter_of(one.start) == quarter}
            minutes = piece.minutes | found
            self._pieces[quarter] = _Piece(minutes, _joined(quarter, minutes), piece.read)
            if quarter + _QUARTER <= now:
                self._version += 1

    def _is_missing(self, quarter: datetime) -> bool:
        piece = self._pieces.get(quarter)
        late = quarter + _QUARTER + _LATE
        return piece is None or piece.read < late <= datetime.now(UTC)

    def _keep(self, quarter: datetime, found: Sequence[Minute], now: datetime) -> None:
        recent = quarter > now - SPANS["hour"] - 2 * _QUARTER
        minutes = {minute.start: joined(minute.start, [minute]) for minute in found} if recent else {}
        self._pieces[quarter] = _Piece(minutes, joined(quarter, found), now)
        self._version += 1

    def _forget(self, now: datetime) -> None:
        for quarter in [quarter for quarter in self._pieces if quarter < now - SPANS["day"] - 2 * _QUARTER]:
            del self._pieces[quarter]
        for quarter, piece in self._pieces.items():
            if piece.minutes and quarter <= now - SPANS["hour"] - 2 * _QUARTER:
                piece.minutes = {}


def _joined(quarter: datetime, minutes: Mapping[datetime, Slice]) -> Slice:
    return joined(quarter, minutes.values())


def _quarter_of(moment: datetime) -> datetime:
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)


def _quarters(since: datetime, until: datetime) -> list[datetime]:
    first = _quarter_of(since)
    return [first + _QUARTER * number for number in range((until - first) // _QUARTER + 1)]
