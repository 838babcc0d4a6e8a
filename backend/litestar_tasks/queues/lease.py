"""Keeping a worker's lease alive from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, TypeVar

__all__ = ("LeaseThread",)


class _Link(Protocol):
    async def close(self) -> None: ...


LinkT = TypeVar("LinkT", bound=_Link)


class LeaseThread(threading.Thread, Generic[LinkT]):
    """Renews every few seconds, over a connection and an event loop of its own.

    A thread, because an event loop that a task blocks (in Python, or in C code that releases the GIL) is not a dead
    process, and its jobs must not be taken away. C code that holds the GIL longer than the lease does stop it.

    Args:
        queue: The queue's name on the wire.
        connect: Makes the connection.
        lease: Seconds without renewal after which the worker counts as lost.
        every: Seconds between two renewals.
        report: Called in this thread with what the server answered.

    Attributes:
        renewed: When the server answered last, by the monotonic clock.
    """

    _failures: ClassVar[tuple[type[Exception], ...]]
    """What a renewal fails with for the server's or the network's sake."""

    def __init__(
        self,
        queue: str,
        connect: Callable[[], LinkT],
        *,
        lease: float,
        every: float,
        report: Callable[..., None],
    ) -> None:
        super().__init__(name=f"lease-{queue}", daemon=True)
        self._queue = queue
        self._connect = connect
        self._lease = lease
        self._every = every
        self._timeout = max(every, 0.5)
        self._report = report
        self._stopped = False
        self._awake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.renewed = time.monotonic()

    @abstractmethod
    async def _renew(self, link: LinkT) -> None:
        """Renew what there is, once, and report. After one of ``_failures`` it is called again soon."""

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopped = True
        if self._awake is not None:
            loop, wake = self._awake
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                pass  # it has ended

    def run(self) -> None:
        """Renew until ``stop``. A failure is reported by those who wait for the server."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        wake = asyncio.Event()
        self._awake = asyncio.get_running_loop(), wake
        link = self._connect()
        due = time.monotonic() + self._every
        try:
            while not self._stopped:
                try:
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await wake.wait()
                except TimeoutError:
                    due = time.monotonic() + self._every
                    try:
                        await self._renew(link)
                    except self._failures:
                        due = time.monotonic() + self._every / 3
        finally:
            await link.close()
