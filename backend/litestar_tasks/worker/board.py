"""What the supervisor knows of its workers, gathered from what they say."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from litestar_tasks.worker.state import Depth, QueueState, State

__all__ = ("Board", "Snapshot", "WorkerStatus")

WorkerStatus: TypeAlias = Literal["ready", "starting", "restarting", "stopping", "no broker", "not claiming", "stuck"]
"""``stuck``: its event loop does not turn, or nothing renews its lease. All others are no reason to end it."""

STUCK: Final = 30.0
"""Seconds without a report after which an event loop counts as stuck: more than a task should ever block it for."""


@dataclass(slots=True)
class _Member:
    name: str
    up: bool = False
    leaving: bool = False
    state: State | None = None
    heard: float = field(default_factory=time.monotonic)

    def status(self, now: float) -> WorkerStatus:
        if self.leaving:
            return "stopping"
        if not self.up:
            return "starting"
        queues = self.state.queues.values() if self.state else ()
        if now - self.heard > STUCK or not all(queue.lease_renewing for queue in queues):
            return "stuck"
        if not queues:
            return "starting"
        if any(queue.depth is None for queue in queues):
            return "no broker"
        return "ready" if all(queue.claiming for queue in queues) else "not claiming"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the workers fare at a moment."""

    workers: dict[str, WorkerStatus]
    """By the names of their programs."""
    queues: list[tuple[str, str, QueueState]]
    """Worker, queue and how the one fares with the other; the last one of a worker is that of its present process."""
    depths: dict[str, Depth]
    """By queue, as far as the broker has answered."""
    ended: Counter[tuple[str, str, str]]
    """Attempts by queue, task and outcome, those of processes that have ended included."""
    starts: int
    """Processes that were started so far."""

    @property
    def alive(self) -> bool:
        """Whether every worker runs, or is being started or stopped."""
        return "stuck" not in self.workers.values()

    @property
    def ready(self) -> bool:
        """Whether a worker takes jobs."""
        return "ready" in self.workers.values()


class Board:
    """The supervisor's audience. Its snapshots may be taken in any thread.

    Args:
        names: The names of the programs.

    Attributes:
        on_change: Called after each report, on the supervisor's thread.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self.on_change: Callable[[], None] = lambda: None
        self._members: dict[int, _Member] = {}
        self._past: Counter[tuple[str, str, str]] = Counter()
        self._starts = 0
        self._lock = threading.Lock()

    def started(self, name: str, pid: int) -> None:
        """See ``Audience``."""
        with self._lock:
            self._members[pid] = _Member(name)
            self._starts += 1

    def up(self, pid: int) -> None:
        """See ``Audience``."""
        with self._lock:
            self._members[pid].up = True
            self._members[pid].heard = time.monotonic()

    def said(self, pid: int, message: bytes) -> None:
        """See ``Audience``."""
        state = msgspec.json.decode(message, type=State)
        with self._lock:
            self._members[pid].state = state
            self._members[pid].heard = time.monotonic()
        self.on_change()

    def leaving(self, pid: int) -> None:
        """See ``Audience``."""
        with self._lock:
            self._members[pid].leaving = True

    def ended(self, pid: int) -> None:
        """See ``Audience``."""
        with self._lock:
            member = self._members.pop(pid)
            self._past += _counts(member)

    def snapshot(self) -> Snapshot:
        """How the workers fare now."""
        now = time.monotonic()
        with self._lock:
            # Those that leave come first, so that their successors' word is the last one.
            members = sorted(self._members.values(), key=lambda member: (not member.leaving, member.heard))
            past, starts = self._past.copy(), self._starts
        workers: dict[str, WorkerStatus] = dict.fromkeys(self._names, "restarting" if starts else "starting")
        queues: list[tuple[str, str, QueueState]] = []
        depths: dict[str, Depth] = {}
        for member in members:
            workers[member.name] = member.status(now)
            for queue, state in member.state.queues.items() if member.state else ():
                queues.append((member.name, queue, state))
                if state.depth is not None:
                    depths[queue] = state.depth
        ended = sum((_counts(member) for member in members), past)
        return Snapshot(workers=workers, queues=queues, depths=depths, ended=ended, starts=starts)


def _counts(member: _Member) -> Counter[tuple[str, str, str]]:
    ended = member.state.ended if member.state else ()
    return Counter({(one.queue, one.task, one.outcome): one.count for one in ended})
