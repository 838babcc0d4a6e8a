"""A worker's concurrency: who of its attempts takes part in it, and who only waits for other jobs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from litestar_tasks.exceptions import JobError

__all__ = ("Seat", "Seats")

_MOST_AWAY: Final = 1_000
"""Attempts of a worker that can wait for other jobs at the same time. Each keeps its memory and its dependencies."""


class Seats:
    """The seats of one worker: as many as it runs jobs at the same time.

    An attempt that waits for another job gives its seat to one that can work, perhaps to that very job; otherwise a
    worker whose attempts all wait for jobs of its own queue would wait for ever. When its waiting is over it sits down
    again, before new jobs do, as soon as there is a seat.

    Args:
        size: How many there are.
        queue: What the id of every job of the worker's queue begins with.
        vacated: Called when a seat has become free.
    """

    def __init__(self, size: int, queue: str, vacated: Callable[[], None]) -> None:
        self._size = size
        self._vacated = vacated
        self._taken = 0
        self._returning: deque[tuple[Seat, asyncio.Future[None]]] = deque()
        self.queue = queue
        self.away = 0

    @property
    def free(self) -> int:
        """How many more jobs can be claimed."""
        return max(0, self._size - self._taken)

    def take(self, group: str | None = None) -> Seat:
        """A seat for an attempt that begins, of a job of that group; there has to be a free one."""
        self._taken += 1
        return Seat(self, group)

    def vacate(self) -> None:
        """Somebody stands up."""
        self._taken -= 1
        while self._returning and self.free:
            seat, turn = self._returning.popleft()
            if not turn.done():
                self.seat(seat)
                turn.set_result(None)
        if self.free:
            self._vacated()

    def seat(self, seat: Seat) -> None:
        """Somebody sits down, unless a part of the same attempt has done so, or waits again."""
        if not seat.taken and not seat.waits:
            seat.taken = True
            self._taken += 1

    async def wait(self, seat: Seat) -> None:
        """Sit down again when it is one's turn."""
        if self.free and not self._returning:
            self.seat(seat)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append((seat, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self.seat(seat)
            raise


class Seat:
    """The place that one attempt takes in its worker."""

    __slots__ = ("_ended", "_loop", "_seats", "group", "taken", "waits")

    def __init__(self, seats: Seats, group: str | None = None) -> None:
        self._seats = seats
        self.group = group
        self._loop = asyncio.get_running_loop()
        self.waits = 0
        self._ended = False
        self.taken = True

    def is_of_queue(self, job_id: str) -> bool:
        """See ``Capacity.is_of_queue``."""
        return job_id.startswith(self._seats.queue)

    @asynccontextmanager
    async def away(self, job_id: str) -> AsyncGenerator[None, None]:
        """Leave the place to others within a block, in which this job is waited for.

        Raises:
            JobError: That could last for ever: this is a thread, which stays taken, and the job is one of the same
                queue; or too many others wait here.
        """
        if asyncio.get_running_loop() is not self._loop:
            if self.is_of_queue(job_id):
                raise JobError(
                    job_id,
                    f"job {job_id!r} is in the queue of the task that waits for it in a thread, which stays taken "
                    "meanwhile: it might never start. Make the waiting task async, or send the job to another queue",
                )
            yield
            return
        if self._ended:  # what an attempt has left behind does not count
            yield
            return
        if self._seats.away >= _MOST_AWAY:
            raise JobError(
                job_id,
                f"{self._seats.away:,} tasks of this worker wait for other jobs, and no more can; job {job_id!r} is "
                "not waited for. Let what follows be enqueued by the job itself, or enqueue fewer that wait",
            )
        self.waits += 1
        self._seats.away += 1
        if self.taken:
            self.taken = False
            self._seats.vacate()
        cancelled = False
        try:
            yield
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self.waits -= 1
            self._seats.away -= 1
            if cancelled and not self._ended:
                self._seats.seat(self)  # what is cancelled must not wait, even where that makes one too many
            elif not self.taken and not self.waits and not self._ended:
                await self._seats.wait(self)

    def leave(self) -> None:
        """The attempt has ended."""
        self._ended = True
        if self.taken:
            self.taken = False
            self._seats.vacate()
