"""The memory of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.queues.operations import Capability
from tests.conformance.brokers import Broker

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry


class MemoryBroker:
    """Each queue object is a queue of its own."""

    capabilities: ClassVar[frozenset[Capability]] = MemoryQueue.capabilities

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

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
        return MemoryQueue(
            label, namespace=namespace, registry=registry, keep_complete=keep_complete, keep_failed=keep_failed
        )

    async def vanish(self, queue: TaskQueue) -> None:
        raise NotImplementedError("its jobs end with their worker")

    async def close(self, queue: TaskQueue) -> None:
        await queue.close()
        await queue.disconnect()


BROKERS: dict[str, Callable[[], Broker]] = {"memory": MemoryBroker}
