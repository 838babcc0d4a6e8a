"""Whether the server answers: said once for each change, and how long to wait in between."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

__all__ = ("Outage",)

logger = logging.getLogger("litestar_tasks.queues")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


class Outage:
    """The state of the way to the server, as one queue of one process sees it.

    Args:
        queue: The queue's name, for the log.
        server: What the server is and where, without credentials: "Redis at localhost:6379".
        reason_of: Puts an error of that server into words.
    """

    def __init__(self, queue: str, server: str, reason_of: Callable[[BaseException], str]) -> None:
        self._queue = queue
        self._server = server
        self.reason_of = reason_of
        self._since: float | None = None
        self._pause = _FIRST_PAUSE
        self.reason = ""

    @property
    def lasting(self) -> float:
        """For how many seconds the server has been away; 0.0 while it answers."""
        return 0.0 if self._since is None else max(time.monotonic() - self._since, 1e-9)

    def failed(self, error: BaseException) -> None:
        """Note a call that failed for the server's or the network's sake."""
        self.reason = self.reason_of(error)
        if self._since is None:
            self._since = time.monotonic()
            self._pause = _FIRST_PAUSE
            logger.error(
                "queue %r: %s does not answer: %s. Running jobs go on, results are kept until it is back",
                self._queue,
                self._server,
                self.reason,
            )

    def succeeded(self) -> None:
        """Note a call that was answered."""
        if self._since is not None:
            logger.warning("queue %r: %s answers again, after %.1f s", self._queue, self._server, self.lasting)
            self._since = None

    async def pause(self) -> None:
        """Wait before the next attempt: longer each time, up to five seconds, and never in step with others."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
