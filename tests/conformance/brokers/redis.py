"""Redis and Valkey, each program that is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.operations import Capability
from litestar_tasks.queues.redis import RedisQueue
from tests.conformance.brokers import Broker, Unavailable
from tests.servers import BINARIES, RedisServer

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

NAMES = {"redis-6.2": "redis-6.2", "redis-7": "redis", "valkey": "valkey"}
"""The ids in the tests' names, and what ``tests.servers`` calls their programs."""


class RedisBroker:
    """One server for the session; each test has a namespace of its own."""

    capabilities: ClassVar[frozenset[Capability]] = RedisQueue.capabilities

    def __init__(self, name: str) -> None:
        self._binary: Path | None = BINARIES.get(NAMES[name])
        self._name = name
        self._server: RedisServer | None = None

    def start(self) -> None:
        if self._binary is None:
            raise Unavailable(f"there is no program for {self._name} on this machine")
        self._server = RedisServer(binary=self._binary)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def make(
        self,
        label: str = "default",
        *,
        namespace: str,
        registry: Registry | None = None,
        lease: float = 15.0,
        max_losses: int = 3,
        keep_complete: int = 10_000,
        keep_failed: int = 100_000,
    ) -> TaskQueue:
        assert self._server is not None
        return RedisQueue.from_url(
            self._server.url,
            label=label,
            namespace=namespace,
            registry=registry,
            lease=lease,
            renew_every=lease / 5,
            max_losses=max_losses,
            keep_complete=keep_complete,
            keep_failed=keep_failed,
        )

    async def vanish(self, queue: TaskQueue) -> None:
        assert isinstance(queue, RedisQueue)
        consumer: Any = queue._consumer
        consumer._lease.stop()
        consumer._recovery._task.cancel()
        consumer._relay._task.cancel()
        for task in consumer._cycles._tasks:
            task.cancel()
        if consumer._cycles._nap is not None:
            consumer._cycles._nap.cancel()
        announcements: Any = queue._announcements
        announcements._listeners.clear()

    async def close(self, queue: TaskQueue) -> None:
        await queue.disconnect()


BROKERS: dict[str, Callable[[], Broker]] = {name: partial(RedisBroker, name) for name in NAMES}
