"""Where a broker keeps the schedules of a queue: a document each, and the moment at which it is due.

What a document says is ``ScheduleRecord``'s; a broker compares and replaces it as a whole. Everything that happens to a
schedule is one such step, the enqueue of a firing's job included, so that of any number of workers one does it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saq.job import Job

__all__ = ("Look", "ScheduleStore", "Step")


@dataclass(frozen=True, slots=True)
class Look:
    """What was found due."""

    now: int
    """The broker's clock, in ms since the epoch."""
    following: int | None
    """When the first one is due that is not yet; None where there is none."""
    due: list[tuple[str, bytes]]
    """Ids and documents of those that are due, the earliest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """A document that is to be stored; see ``ScheduleStore.swap``."""

    id: str
    seen: bytes | None
    new: bytes
    due: int | None


class ScheduleStore(ABC):
    """The schedules of one queue. All of it raises QueueUnavailableError where the broker does not answer.

    Attributes:
        changes: Grows whenever this process hears that schedules were changed; it may miss that.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self, seconds: float, since: int) -> None:
        """Wait for a time, or until ``changes`` is not ``since`` any more."""
        if self.changes != since:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            self._waiting.discard(waiting)

    def heard(self) -> None:
        """Note that schedules were changed."""
        self.changes += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    @abstractmethod
    async def announce(self) -> None:
        """Let workers hear that schedules were changed, if they can; they look now and then by themselves."""

    @abstractmethod
    async def look(self, limit: int) -> Look:
        """What is due by the broker's clock, up to ``limit`` of it."""

    @abstractmethod
    async def read(self, id: str) -> bytes | None:
        """A schedule's document."""

    @abstractmethod
    async def read_all(self) -> dict[str, bytes]:
        """Every document by its id."""

    @abstractmethod
    async def swap(self, id: str, seen: bytes | None, new: bytes | None, due: int | None, job: Job | None) -> bool:
        """Replace a document, if it is still the one that was seen, and enqueue a job with it: both or none.

        It can be sent again: where the new document stands already, nothing is done, and the answer is the same.

        Args:
            id: The schedule.
            seen: The document that is to be replaced; None where there must be none.
            new: What it is replaced by; None to remove the schedule.
            due: When it is due, in ms; None for not at all.
            job: A job to enqueue. One that has not ended under the same key stands for it.

        Returns:
            Whether ``new`` stands there now.
        """

    @abstractmethod
    async def swap_many(self, steps: Sequence[Step]) -> set[str]:
        """Replace some hundred documents, each as ``swap`` does, and return the ids of those that were.

        Of the others nothing is known; they are left to ``swap``.
        """

    @abstractmethod
    async def advertise(self, holder: str, digest: str, seconds: float) -> str:
        """Say that a worker of a release lives, and return the digest of the youngest release of which one does.

        A release is as old as the moment, by the broker's clock, at which it was first seen. One that has not been seen
        for an hour is forgotten.

        Args:
            holder: Names the worker.
            digest: Names what its release declares.
            seconds: How long this holds.
        """

    @abstractmethod
    async def withdraw(self, holder: str) -> None:
        """Say that a worker has stopped."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, if there is one; the next call opens it again."""
