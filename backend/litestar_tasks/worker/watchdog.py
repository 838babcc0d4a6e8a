"""Says when a task blocks the event loop, and which one it is."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import Final, Self

__all__ = ("Watchdog",)

logger = logging.getLogger("litestar_tasks.worker")

_EVERY: Final = 0.5
_LATE: Final = 2.0


class Watchdog:
    """Looks from a thread of its own whether the event loop still turns, while it is entered.

    Nothing is lost while it does not: leases are renewed from another thread. But no other job of the process goes
    on, no timeout and no abort is heeded, so the task's author should know. A task that holds the GIL as well is named
    when it lets go of it.

    Args:
        names: The tasks that are of interest. Defaults to None: whatever blocks the loop.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._turned = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watch-loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        told: asyncio.Task[object] | None = None
        while not self._ended.wait(_EVERY):
            late = time.monotonic() - self._turned
            if late > _LATE:
                # The one task of the loop that is being stepped through, as asyncio itself keeps it.
                blocking = asyncio.current_task(self._loop)
                if blocking is not None and blocking is not told and self._counts(blocking):
                    told = blocking
                    logger.warning(
                        "task %r has blocked the event loop for %.1f s; no other job here goes on, and no timeout or "
                        "abort is heeded: use a sync task, which runs in a thread, or await",
                        blocking.get_name(),
                        late,
                    )
            else:
                told = None
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                return  # the loop has been closed

    def _counts(self, task: asyncio.Task[object]) -> bool:
        return self._names is None or task.get_name() in self._names

    def _turn(self) -> None:
        self._turned = time.monotonic()
