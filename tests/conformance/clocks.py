"""A broker's clock that stands still and is moved by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from saq.job import Job

from litestar_tasks.moments import milliseconds, moment_of
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.schedules import Look, ScheduleStore, Step

_PAST: Final = 1_000
_FUTURE: Final = milliseconds(datetime(2200, 1, 1, tzinfo=UTC))


class Clock:
    """What brokers take for the time. What is due is still found and moved by the broker itself."""

    def __init__(self, now: datetime) -> None:
        self.now = milliseconds(now)
        self.due: dict[tuple[str, str], int] = {}
        self._stores: list[_Stopped] = []

    @property
    def moment(self) -> datetime:
        return moment_of(self.now)

    def stop(self, queue: TaskQueue) -> TaskQueue:
        """Let a queue's schedules go by this clock."""
        store = _Stopped(queue.name, queue.schedules, self)
        self._stores.append(store)
        queue.schedules = store
        return queue

    async def set(self, moment: datetime) -> None:
        """Set the clock, forwards or back."""
        self.now = milliseconds(moment)
        for (name, id), due in list(self.due.items()):
            store = next(store for store in self._stores if store.name == name)
            if (document := await store.inner.read(id)) is not None:
                assert await store.inner.swap(id, document, document, self.real(due), None)

    async def step(self, **duration: float) -> None:
        """Let time pass."""
        await self.set(self.moment + timedelta(**duration))

    def real(self, due: int) -> int:
        return _PAST if due <= self.now else _FUTURE


class _Stopped(ScheduleStore):
    def __init__(self, name: str, inner: ScheduleStore, clock: Clock) -> None:
        super().__init__()
        self.name = name
        self.inner = inner
        self._clock = clock

    async def look(self, limit: int) -> Look:
        look = await self.inner.look(limit)
        moments = [due for (name, _), due in self._clock.due.items() if name == self.name and due > self._clock.now]
        due = sorted(look.due, key=lambda one: self._clock.due[self.name, one[0]])
        return Look(self._clock.now, min(moments, default=None), due)

    async def swap(self, id: str, seen: bytes | None, new: bytes | None, due: int | None, job: Job | None) -> bool:
        real = None if due is None else self._clock.real(due)
        swapped = await self.inner.swap(id, seen, new, real, job)
        if swapped:
            self._clock.due.pop((self.name, id), None)
            if due is not None and new is not None:
                self._clock.due[self.name, id] = due
        return swapped

    async def swap_many(self, steps: Sequence[Step]) -> set[str]:
        real = [dataclasses.replace(one, due=None if one.due is None else self._clock.real(one.due)) for one in steps]
        swapped = await self.inner.swap_many(real)
        for one in steps:
            if one.id in swapped:
                self._clock.due.pop((self.name, one.id), None)
                if one.due is not None:
                    self._clock.due[self.name, one.id] = one.due
        return swapped

    async def announce(self) -> None:
        self.heard()

    async def read(self, id: str) -> bytes | None:
        return await self.inner.read(id)

    async def read_all(self) -> dict[str, bytes]:
        return await self.inner.read_all()

    async def advertise(self, holder: str, digest: str, seconds: float) -> str:
        return await self.inner.advertise(holder, digest, seconds)

    async def withdraw(self, holder: str) -> None:
        await self.inner.withdraw(holder)

    async def close(self) -> None:
        await self.inner.close()
