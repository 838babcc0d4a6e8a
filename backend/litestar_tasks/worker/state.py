"""What a worker process tells its supervisor of itself, for probes, metrics and progress."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec
from redis.exceptions import RedisError

from litestar_tasks.exceptions import TasksError

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.worker.worker import Worker

__all__ = ("Depth", "Ended", "QueueState", "Reporter", "State", "depth_of")

logger = logging.getLogger("litestar_tasks.worker")

UNKNOWN: Final = "(unknown)"
"""Stands for every task that is not registered: what others enqueue must not make metrics grow."""
_PATIENCE: Final = 5.0
_FIRST: Final = 0.05


class Depth(msgspec.Struct, frozen=True):
    """How many jobs a queue holds, whoever works on it."""

    queued: int
    active: int
    scheduled: int


class QueueState(msgspec.Struct, frozen=True):
    """How a worker process fares with one queue."""

    claiming: bool
    running: int
    capacity: int
    """How many more jobs it could run."""
    depth: Depth | None
    """None where the broker has not answered."""
    lease_age: float | None
    """Seconds since the lease was renewed; None where there is none."""
    lease_renewing: bool
    """Whether the thread that renews it, if there is one, is alive."""


class Ended(msgspec.Struct, frozen=True):
    """How many attempts came to one outcome, since the process started."""

    queue: str
    task: str
    outcome: str
    count: int


class State(msgspec.Struct, frozen=True):
    """How a worker process fares."""

    queues: dict[str, QueueState]
    ended: list[Ended]


class Reporter:
    """Sends the state of workers every few seconds, while it is entered, and once more at the end.

    It runs on the workers' event loop, so that who hears nothing any more knows that the loop does not turn.

    Args:
        workers: The workers, whose queues are connected for as long.
        send: Takes a state, and does not wait.
        every: Seconds between two states.
    """

    def __init__(self, workers: Sequence[Worker], send: Callable[[State], None], *, every: float) -> None:
        self._workers = workers
        self._send = send
        self._every = every
        self._depths: dict[str, Depth | None] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._report(), name="report")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._send(self._state())

    async def _report(self) -> None:
        queues = [worker.queue for worker in self._workers]
        pause = _FIRST
        while True:
            depths = await asyncio.gather(*map(depth_of, queues))
            self._depths = {queue.label: depth for queue, depth in zip(queues, depths, strict=True)}
            self._send(self._state())
            # Who waits for these workers to be ready soon knows.
            await asyncio.sleep(pause := min(2 * pause, self._every))

    def _state(self) -> State:
        ended: Counter[tuple[str, str, str]] = Counter()
        for worker in self._workers:
            for (task, settlement), count in worker.outcomes.items():
                known = task if task in worker.functions else UNKNOWN
                ended[worker.queue.label, known, settlement.value] += count
        return State(
            queues={worker.queue.label: self._queue_state(worker) for worker in self._workers},
            ended=[Ended(*key, count) for key, count in ended.items()],
        )

    def _queue_state(self, worker: Worker) -> QueueState:
        lease = worker.queue.lease()
        return QueueState(
            claiming=worker.claiming,
            running=worker.running,
            capacity=worker.concurrency - worker.running,
            depth=self._depths.get(worker.queue.label),
            lease_age=lease.age if lease else None,
            lease_renewing=lease.renewing if lease else True,
        )


async def depth_of(queue: TaskQueue) -> Depth | None:
    """How many jobs a queue holds, roughly, at little cost; None where the broker does not say."""
    try:
        async with asyncio.timeout(_PATIENCE):
            queued, active = await queue.count("queued"), await queue.count("active")
            # What is due and not yet queued counts here, and what changes in between may count twice or not at all.
            scheduled = max(0, await queue.count("incomplete") - queued - active)
    except (TasksError, RedisError, OSError) as error:  # of which TimeoutError is one
        logger.debug("the depth of queue %r is unknown: %s", queue.name, error)
        return None
    return Depth(queued, active, scheduled)
