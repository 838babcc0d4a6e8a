"""The schedules of a queue in memory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from litestar_tasks.queues.schedules import Look, ScheduleStore, Step

if TYPE_CHECKING:
    from saq.job import Job

__all__ = ("MemorySchedules",)


class MemorySchedules(ScheduleStore):
    """Documents in a dictionary.

    Args:
        store: Stores a job; it does so before it gives anybody else a turn.
    """

    def __init__(self, store: Callable[[Job], Awaitable[Any]]) -> None:
        super().__init__()
        self._store = store
        self._documents: dict[str, bytes] = {}
        self._due: dict[str, int] = {}
        self._holders: dict[str, str] = {}
        self._releases: dict[str, None] = {}

    async def look(self, limit: int) -> Look:
        """See ``ScheduleStore.look``."""
        now = int(time.time() * 1000)
        due = sorted((moment, id) for id, moment in self._due.items() if moment <= now)
        following = min((moment for moment in self._due.values() if moment > now), default=None)
        return Look(now, following, [(id, self._documents[id]) for _, id in due[:limit]])

    async def read(self, id: str) -> bytes | None:
        """See ``ScheduleStore.read``."""
        return self._documents.get(id)

    async def read_all(self) -> dict[str, bytes]:
        """See ``ScheduleStore.read_all``."""
        return dict(self._documents)

    async def swap(self, id: str, seen: bytes | None, new: bytes | None, due: int | None, job: Job | None) -> bool:
        """See ``ScheduleStore.swap``."""
        stands = self._documents.get(id)
        if stands != seen:
            return stands == new
        self._documents.pop(id, None)
        self._due.pop(id, None)
        if new is not None:
            self._documents[id] = new
            if due is not None:
                self._due[id] = due
        if job is not None:
            await self._store(job)
        return True

    async def swap_many(self, steps: Sequence[Step]) -> set[str]:
        """See ``ScheduleStore.swap_many``."""
        return {one.id for one in steps if await self.swap(one.id, one.seen, one.new, one.due, None)}

    async def announce(self) -> None:
        """See ``ScheduleStore.announce``."""
        self.heard()

    async def advertise(self, holder: str, digest: str, seconds: float) -> str:
        """See ``ScheduleStore.advertise``. What is in memory ends with its process, and so do its workers."""
        self._releases.setdefault(digest)
        self._holders[holder] = digest
        live = set(self._holders.values())
        return next(one for one in reversed(self._releases) if one in live)

    async def withdraw(self, holder: str) -> None:
        """See ``ScheduleStore.withdraw``."""
        self._holders.pop(holder, None)

    async def close(self) -> None:
        """Nothing is connected."""
