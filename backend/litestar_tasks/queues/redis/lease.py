"""Keeping a worker's lease alive from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError, RedisError

from litestar_tasks.queues.redis.lua import Script

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.connection import Endpoint
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("LeaseThread",)

_RENEW: Final = Script("renew")


class LeaseThread(threading.Thread):
    """Renews every few seconds, over a connection of its own.

    A thread, because an event loop that a task blocks (in Python, or in C code that releases the GIL) is not a dead
    process, and its jobs must not be taken away. C code that holds the GIL longer than the lease does stop it.

    Args:
        endpoint: The server.
        layout: The queue's keys.
        lease: Seconds without renewal after which the worker counts as lost.
        every: Seconds between two renewals.
        report: Called in this thread with the holder and the answer of ``renew.lua``.

    Attributes:
        renewed: When the server answered last, by the monotonic clock.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        layout: Layout,
        *,
        lease: float,
        every: float,
        report: Callable[[str, list[Any]], None],
    ) -> None:
        super().__init__(name=f"lease-{layout.name}", daemon=True)
        self._endpoint = endpoint
        self._layout = layout
        self._lease_ms = int(lease * 1000)
        self._every = every
        self._report = report
        self._cursors: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.renewed = time.monotonic()

    def add(self, holder: str) -> None:
        """Renew this holder's lease from now on."""
        with self._lock:
            self._cursors[holder] = "0"

    def remove(self, holder: str) -> None:
        """Let this holder's lease lapse."""
        with self._lock:
            self._cursors.pop(holder, None)

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopped.set()

    def run(self) -> None:
        """Renew until ``stop``. A failure is tried again soon, and reported by those who wait for the server."""
        client: Any = self._endpoint.sync_client(timeout=max(self._every, 0.5))  # redis-py's types are partial
        due = time.monotonic() + self._every
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + self._every
            with self._lock:
                cursors = dict(self._cursors)
            for holder, cursor in cursors.items():
                try:
                    self._renew(client, holder, cursor)
                except (RedisError, OSError):
                    due = time.monotonic() + self._every / 3
        with suppress(RedisError, OSError):
            client.close()
            client.connection_pool.disconnect()

    def _renew(self, client: Any, holder: str, cursor: str) -> None:
        args = (self._layout.incomplete, self._layout.prefix, holder, self._lease_ms, cursor)
        answer: Any
        try:
            answer = client.execute_command("EVALSHA", _RENEW.digest, 1, *args)
        except NoScriptError:
            answer = client.execute_command("EVAL", _RENEW.source, 1, *args)
        self.renewed = time.monotonic()
        with self._lock:
            if holder in self._cursors:
                self._cursors[holder] = answer[2].decode()
        self._report(holder, answer)
