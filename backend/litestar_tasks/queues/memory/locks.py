"""Which jobs hold which locks, and of which groups one runs at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable

from litestar_tasks.uniqueness import Lock

__all__ = ("Locks",)


class Locks:
    """The locks and groups of jobs that have not ended, by key."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[str, float]] = {}
        self._held: dict[str, Lock] = {}
        self._windows: dict[str, tuple[str, float]] = {}
        self._groups: dict[str, str] = {}

    def holder(self, lock: Lock) -> tuple[str, float] | None:
        """The job that stands for all that want a lock, and the moment to which it may be put off (0: any)."""
        if lock.window:
            now = time.time()
            self._windows = {name: window for name, window in self._windows.items() if window[1] > now}
            if (window := self._windows.get(lock.name)) is not None:
                return window[0], 0
        return None if lock.until == "enqueued" else self._holders.get(lock.name)

    def take(self, key: str, lock: Lock | None, group: str | None) -> None:
        """Enter a new job."""
        if group is not None:
            self._groups[key] = group
        else:
            self._groups.pop(key, None)
        if lock is None:
            return
        if lock.until != "enqueued":
            self._holders[lock.name], self._held[key] = (key, lock.deadline), lock
        if lock.window:
            self._windows[lock.name] = key, time.time() + lock.window

    def start(self, key: str) -> None:
        """A job starts: some locks are held for no longer."""
        if (lock := self._held.get(key)) is not None and lock.until == "started":
            self._give_up(key)

    def end(self, key: str) -> None:
        """A job has ended, in whatever way."""
        self._groups.pop(key, None)
        self._give_up(key)

    def admitted(self, keys: Iterable[str], running: Iterable[str], limit: int) -> list[str]:
        """The first of these jobs, in order, that may run beside those that do."""
        busy = {self._groups.get(key) for key in running}  # of few jobs, where many may wait
        found: list[str] = []
        for key in keys:
            if len(found) == limit:
                break
            group = self._groups.get(key)
            if group is None or group not in busy:
                found.append(key)
                if group is not None:
                    busy.add(group)
        return found

    @property
    def grouped(self) -> bool:
        """Whether any job is in a group."""
        return bool(self._groups)

    def _give_up(self, key: str) -> None:
        lock = self._held.pop(key, None)
        if lock is not None and self._holders.get(lock.name, ("",))[0] == key:
            del self._holders[lock.name]
