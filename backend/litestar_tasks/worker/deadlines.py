"""Time limits of coroutines, all of them on one timer."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any

__all__ = ("Deadlines", "Limit")


class Deadlines:
    """Makes limits for blocks of coroutines.

    ``asyncio.timeout`` sets a timer for each block. Nearly every attempt ends long before its limit, and setting and
    removing the timer would cost more than running a short task does. So limits are only written down here, and one
    timer looks at them when the earliest of those that it was set for can be over.
    """

    def __init__(self) -> None:
        self._limits: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._moment = math.inf
        """When the timer goes off."""

    def limit(self, seconds: float) -> Limit:
        """A limit for one ``with`` block of a coroutine, counted from its beginning.

        The block may await. It ends with a ``TimeoutError`` if it was cancelled for its limit, and for nothing else.
        """
        return Limit(self, seconds)

    def enter(self, limit: Limit) -> None:
        """Heed a limit from now on."""
        self._limits.add(limit)
        if limit.end < self._moment:
            self._set_timer(limit.end)

    def leave(self, limit: Limit) -> None:
        """Heed it no more."""
        self._limits.discard(limit)

    def _set_timer(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._moment = moment
        self._timer = asyncio.get_running_loop().call_at(moment, self._look)

    def _look(self) -> None:
        self._timer, self._moment = None, math.inf
        # A loop's clock may be as coarse as a millisecond.
        now = asyncio.get_running_loop().time() + 0.001
        for limit in [one for one in self._limits if one.end <= now]:
            self._limits.remove(limit)
            limit.expire()
        earliest = min((one.end for one in self._limits), default=math.inf)
        if earliest < math.inf:
            self._set_timer(earliest)


class Limit:
    """One block's limit. Made by ``Deadlines.limit``.

    Attributes:
        end: The moment at which it is over, on the event loop's clock.
        expired: Whether the block was cancelled for it.
    """

    __slots__ = ("_cancelling", "_deadlines", "_seconds", "_task", "end", "expired")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self.expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a limit is for a coroutine that runs as a task"
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self.end = asyncio.get_running_loop().time() + self._seconds
        self._deadlines.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.leave(self)
        # As asyncio.timeout does it: who else cancelled the task meanwhile gets the cancellation.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block."""
        self.expired = True
        self._task.cancel()
