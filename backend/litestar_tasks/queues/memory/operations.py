"""What an operator does with a queue in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, cast

from saq.job import TERMINAL_STATUSES, Job

from litestar_tasks.queues import cursors, tallies
from litestar_tasks.queues.history import begin_anew
from litestar_tasks.queues.locks import lock_anew
from litestar_tasks.queues.memory import order
from litestar_tasks.queues.operations import (
    ABORTED_WITH_OTHERS,
    ENDED,
    PURGED,
    STATES,
    BulkAction,
    BulkStep,
    JobFilter,
    JobState,
    Minute,
    Operations,
    Page,
    Pause,
)

if TYPE_CHECKING:
    from litestar_tasks.queues.base import Listener
    from litestar_tasks.queues.memory.order import Rank
    from litestar_tasks.queues.memory.state import State

__all__ = ("MemoryOperations",)

_READ: Final = 500


class _Queue(Protocol):
    """What is needed of the queue."""

    listeners: tuple[Listener, ...]

    def tell_ended(self, jobs: Iterable[Job], error: str) -> None: ...

    def serialize(self, job: Job) -> bytes | str: ...

    def deserialize(self, payload: bytes | None) -> Job | None: ...

    async def cancel(self, key: str, reason: str) -> bool: ...


@dataclass(slots=True)
class _Walk:
    matches: list[Job]
    read: int
    place: Rank | None


class MemoryOperations(Operations):
    """An operator's side of one queue.

    Args:
        queue: The queue.
        state: What it holds.
        notify: Wakes those who wait for a change.
    """

    def __init__(self, queue: _Queue, state: State, notify: Callable[[], Awaitable[None]]) -> None:
        self._queue = queue
        self._state = state
        self._notify = notify

    async def counts(self) -> dict[JobState, int]:
        """See ``Operations.counts``."""
        self._look()
        return {state: len(self._state.order_of(state)) for state in STATES}

    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """See ``Operations.page``."""
        after = None if cursor is None else _rank(cursors.read(which, cursor, (int, float), int))
        walk = self._walk(which, after, cursors.check_limit(limit), _READ)
        return Page(walk.matches, None if walk.place is None else cursors.write(which, [*walk.place]))

    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """See ``Operations.bulk``."""
        which.allows(action)
        cursors.check_limit(limit)
        # What ends again while the operation goes on is left to the next one.
        horizon, after = order.latest(), None
        if cursor is not None:
            first, *place = cursors.read(which, cursor, int, (int, float), int)
            horizon, after = int(first), _rank(place)
        walk = self._walk(which, after, limit, limit, horizon if which.state in ENDED else None)
        done = 0
        for job in walk.matches:
            match action:
                case "retry":
                    done += await self.rerun(job.key)
                case "delete":
                    done += await self.delete(job.key)
                case "abort":
                    done += await self._queue.cancel(job.key, ABORTED_WITH_OTHERS)
        following = None if walk.place is None else cursors.write(which, [horizon, *walk.place])
        return BulkStep(done, walk.read - done, following)

    async def rerun(self, key: str) -> bool:
        """See ``Operations.rerun``."""
        self._look()
        state = self._state
        job = self._queue.deserialize(state.records.get(key))
        if job is None:
            return False
        if key in state.retrying:
            state.leave(key)
        elif job.status in TERMINAL_STATUSES:
            lock = lock_anew(job)
            if lock is not None and state.locks.holder(lock) is not None:
                return False
            state.locks.take(key, lock, job.group_key)
            begin_anew(job)
            state.records[key] = cast("bytes", self._queue.serialize(job))
            state.revive(key)
        else:
            return False
        state.make_wait(key, job.priority)
        await self._notify()
        return True

    async def delete(self, key: str) -> bool:
        """See ``Operations.delete``."""
        self._look()
        if key not in self._state.records or self._state.waits(key) or key in self._state.active:
            return False
        self._state.forget(key)
        return True

    async def purge(self) -> int:
        """See ``Operations.purge``."""
        state = self._state
        keys = [*state.queued.take(len(state.queued)), *state.scheduled.take(len(state.scheduled))]
        if self._queue.listeners:
            jobs = (self._queue.deserialize(state.records.get(key)) for key in keys)
            self._queue.tell_ended((job for job in jobs if job is not None), PURGED)
        for key in keys:
            state.leave(key)
            state.forget(key)
        await self._notify()
        return len(keys)

    async def pause(self, *, by: str = "") -> None:
        """See ``Operations.pause``."""
        self._state.pause = self._state.pause or Pause(datetime.now(UTC), by)

    async def resume(self) -> None:
        """See ``Operations.resume``."""
        self._state.pause = None
        await self._notify()

    async def paused(self) -> Pause | None:
        """See ``Operations.paused``."""
        return self._state.pause

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """See ``Operations.add_minutes``."""
        known = self._state.minutes
        for minute, task, field, number in tallies.flatten(minutes):
            counted = known.setdefault(minute, {})
            counted[task, field] = counted.get((task, field), 0) + number
        oldest = tallies.minute_of(datetime.now(UTC) - tallies.KEPT)
        for minute in [minute for minute in known if minute < oldest]:
            del known[minute]

    async def minutes(self, since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        """See ``Operations.minutes``."""
        found = tallies.Sums(every)
        for minute in tallies.span(since, until):
            for (task, field), number in self._state.minutes.get(minute, {}).items():
                found.add(minute, task, field, number)
        return found.minutes()

    def _look(self) -> None:
        self._state.expire()
        self._state.start_due()

    def _walk(self, which: JobFilter, after: Rank | None, limit: int, most: int, horizon: int | None = None) -> _Walk:
        """Go through a listing from a place on, until so many jobs are found or so many records are read.

        Args:
            which: The filter.
            after: The place.
            limit: So many jobs.
            most: So many records.
            horizon: What was entered later is not meant. Defaults to None: all are.
        """
        self._look()
        low, high = -inf, inf
        if which.state not in ("queued", "active"):
            unit = 1 if which.state in ENDED else 1000
            low = -inf if which.since is None else cursors.milliseconds(which.since) / unit
            high = inf if which.until is None else cursors.milliseconds(which.until) / unit
        walk = _Walk([], 0, None)
        place = after
        entries = self._state.order_of(which.state)
        for rank, key in entries.walk(low=low, high=high, down=which.newest_first, after=after):
            if horizon is not None and rank[1] > horizon:
                continue
            if walk.read == most or len(walk.matches) == limit:
                walk.place = place
                break
            walk.read, place = walk.read + 1, rank
            job = self._queue.deserialize(self._state.records.get(key))
            if job is not None and which.means(job):
                walk.matches.append(job)
        return walk


def _rank(place: Sequence[int | float | str]) -> Rank:
    by, number = place
    return float(by), int(number)
