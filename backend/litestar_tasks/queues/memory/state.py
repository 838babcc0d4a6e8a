"""What a queue in memory holds: the records, and where each job stands."""

from __future__ import annotations

import heapq
import time

from litestar_tasks.queues.memory.locks import Locks
from litestar_tasks.queues.memory.order import Order
from litestar_tasks.queues.operations import ENDED, JobState, Pause

__all__ = ("State",)


class State:
    """Records and their orders. Every moment is in seconds since the epoch, but for the ends of jobs, in ms."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.queued = Order()
        """By priority."""
        self.scheduled = Order()
        """By the moment at which they are due."""
        self.retrying = Order()
        """Those of the scheduled ones that have failed before."""
        self.active = Order()
        """By token."""
        self.ended: dict[JobState, Order] = {state: Order() for state in ENDED}
        """By the moment of their end."""
        self.priorities: dict[str, int] = {}
        """Of jobs that wait for their time."""
        self.locks = Locks()
        self.pause: Pause | None = None
        self.minutes: dict[int, dict[tuple[str, str], int]] = {}
        self._expires: dict[str, float] = {}
        self._expiries: list[tuple[float, str]] = []

    def order_of(self, state: JobState) -> Order:
        """The order in which the jobs of a state are listed."""
        waiting: dict[JobState, Order] = {
            "queued": self.queued,
            "scheduled": self.scheduled,
            "retrying": self.retrying,
            "active": self.active,
        }
        return self.ended[state] if state in ENDED else waiting[state]

    def waits(self, key: str) -> bool:
        """Whether a job waits for its time or for a worker."""
        return key in self.queued or key in self.scheduled

    def make_wait(
        self, key: str, priority: int, *, until: float = 0, at_head: bool = False, again: bool = False
    ) -> None:
        """Let a job wait.

        Args:
            key: The job.
            priority: Its priority.
            until: When it is due. Defaults to 0: now.
            at_head: Whether it is the next one of its priority. Defaults to False: the last one.
            again: Whether it has failed before. Defaults to False.
        """
        if until > time.time():
            self.scheduled.put(key, until)
            self.priorities[key] = priority
            if again:
                self.retrying.put(key, until)
        else:
            self.queued.put(key, priority, first=at_head)

    def leave(self, key: str) -> None:
        """Take a job out of those that wait."""
        self.queued.drop(key)
        self.scheduled.drop(key)
        self.retrying.drop(key)
        self.priorities.pop(key, None)

    def start_due(self) -> None:
        """Let those that are due join the tails of their priorities."""
        for key in self.scheduled.take_until(time.time()):
            self.retrying.drop(key)
            self.queued.put(key, self.priorities.pop(key))

    def end(self, key: str, states: tuple[JobState, ...], *, ttl: int, keep: int) -> None:
        """List a job as ended, and drop the oldest records of its states beyond so many.

        Args:
            key: The job, whose record is written already.
            states: Where it is listed.
            ttl: As ``record_ttl`` says.
            keep: How many records of a state are kept.
        """
        self.locks.end(key)
        if ttl:
            self._expires[key] = time.time() + abs(ttl)
            heapq.heappush(self._expiries, (self._expires[key], key))
        if ttl < 0:
            return
        now = int(time.time() * 1000)
        for state in states:
            self.ended[state].put(key, now)
        order = self.ended[states[0]]
        for old in order.take(max(0, len(order) - keep)):
            self.forget(old)

    def revive(self, key: str) -> None:
        """A job that has ended begins anew: its record does not expire, and it is not listed as ended."""
        self._expires.pop(key, None)
        for order in self.ended.values():
            order.drop(key)

    def forget(self, key: str) -> None:
        """Drop a record that nobody waits for."""
        self.records.pop(key, None)
        self.locks.end(key)
        self.revive(key)

    def expire(self) -> None:
        """Drop the records whose time is over."""
        now = time.time()
        while self._expiries and self._expiries[0][0] <= now:
            moment, key = heapq.heappop(self._expiries)
            if self._expires.get(key) == moment:
                self.forget(key)
