"""A queue whose operations are another object's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from litestar_tasks.queues.operations import (
    BulkAction,
    BulkStep,
    JobFilter,
    JobState,
    Minute,
    Operations,
    Page,
    Pause,
)

__all__ = ("Operated",)


class Operated(Operations):
    """Passes on what an operator asks. To be named before ``TaskQueue`` among the bases of a queue."""

    _operations: Operations

    async def counts(self) -> dict[JobState, int]:
        """See ``Operations.counts``."""
        return await self._operations.counts()

    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """See ``Operations.page``."""
        return await self._operations.page(which, limit=limit, cursor=cursor)

    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """See ``Operations.bulk``."""
        return await self._operations.bulk(action, which, limit=limit, cursor=cursor)

    async def rerun(self, key: str) -> bool:
        """See ``Operations.rerun``."""
        return await self._operations.rerun(key)

    async def delete(self, key: str) -> bool:
        """See ``Operations.delete``."""
        return await self._operations.delete(key)

    async def purge(self) -> int:
        """See ``Operations.purge``."""
        return await self._operations.purge()

    async def pause(self, *, by: str = "") -> None:
        """See ``Operations.pause``."""
        await self._operations.pause(by=by)

    async def resume(self) -> None:
        """See ``Operations.resume``."""
        await self._operations.resume()

    async def paused(self) -> Pause | None:
        """See ``Operations.paused``."""
        return await self._operations.paused()

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """See ``Operations.add_minutes``."""
        await self._operations.add_minutes(minutes)

    async def minutes(self, since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        """See ``Operations.minutes``."""
        return await self._operations.minutes(since, until, every=every)
