"""Keeping a worker's lease alive from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.postgres.connection import Endpoint, Link
from litestar_tasks.queues.postgres.statements import RENEW

__all__ = ("LeaseThread",)


class LeaseThread(threading.Thread):
    """Renews every few seconds, over a connection and an event loop of its own.

    A thread, because an event loop that a task blocks (in Python, or in C code that releases the GIL) is not a dead
    process, and its jobs must not be taken away. C code that holds the GIL longer than the lease does stop it.

    Args:
        endpoint: The server.
        queue: The queue's name on the wire.
        lease: Seconds without renewal after which the worker counts as lost.
        every: Seconds between two renewals.
        report: Called in this thread with a lease's number, whether it is still there, and the tokens and reasons of
            its jobs that somebody wants ended.

    Attributes:
        renewed: When the server answered last, by the monotonic clock.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        queue: str,
        *,
        lease: float,
        every: float,
        report: Callable[[int, bool, Sequence[tuple[int, str]]], None],
    ) -> None:
        super().__init__(name=f"lease-{queue}", daemon=True)
        self._endpoint = endpoint
        self._queue = queue
        self._lease = lease
        self._every = every
        self._report = report
        self._owner: int | None = None
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self.renewed = time.monotonic()

    def keep(self, owner: int | None) -> None:
        """Renew this lease from now on, and no other."""
        self._owner = owner
        self.renewed = time.monotonic()

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopped.set()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                pass  # it has ended

    def run(self) -> None:
        """Renew until ``stop``. A failure is tried again soon, and reported by those who wait for the server."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        link = self._endpoint.link()
        try:
            await self._renew(link)
        finally:
            await link.close()

    async def _renew(self, link: Link) -> None:
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        due = time.monotonic() + self._every
        while not self._stopped.is_set():
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if self._stopped.is_set():
                break
            due = time.monotonic() + self._every
            if (owner := self._owner) is None:
                continue
            parameters = {"queue": self._queue, "owner": owner, "lease": self._lease}
            try:
                rows: list[tuple[Any, ...]] = await link.ask(RENEW, parameters, timeout=max(self._every, 0.5))
            except (BrokerError, psycopg.Error, OSError):
                due = time.monotonic() + self._every / 3
                continue
            self.renewed = time.monotonic()
            self._report(owner, bool(rows[0][0]), [(token, reason) for _, token, reason in rows if token is not None])
