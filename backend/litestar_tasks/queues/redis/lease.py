"""Renewing leases in Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from litestar_tasks.queues import lease
from litestar_tasks.queues.redis.connection import Endpoint, Link
from litestar_tasks.queues.redis.lua import Script

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("LeaseThread",)

_RENEW: Final = Script("renew")


class LeaseThread(lease.LeaseThread[Link]):
    """Renews the leases of some holders.

    It reports the holder and the answer of ``renew.lua``.

    Args:
        endpoint: The server.
        layout: The queue's keys.
        lease: Seconds without renewal after which the worker counts as lost.
        every: Seconds between two renewals.
        report: Called in this thread.
    """

    _failures = (RedisError, OSError)

    def __init__(
        self,
        endpoint: Endpoint,
        layout: Layout,
        *,
        lease: float,
        every: float,
        report: Callable[[str, list[Any]], None],
    ) -> None:
        super().__init__(layout.name, endpoint.link, lease=lease, every=every, report=report)
        self._layout = layout
        self._cursors: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, holder: str) -> None:
        """Renew this holder's lease from now on."""
        with self._lock:
            self._cursors[holder] = "0"

    def remove(self, holder: str) -> None:
        """Let this holder's lease lapse."""
        with self._lock:
            self._cursors.pop(holder, None)

    async def _renew(self, link: Link) -> None:
        with self._lock:
            cursors = dict(self._cursors)
        for holder, cursor in cursors.items():
            args = (holder, int(self._lease * 1000), cursor)
            answer: list[Any] = await _RENEW.run(link, self._layout, args, self._timeout)
            self.renewed = time.monotonic()
            with self._lock:
                if holder in self._cursors:
                    self._cursors[holder] = answer[2].decode()
            self._report(holder, answer)
