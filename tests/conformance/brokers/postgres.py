"""Postgres, the newest that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.operations import Capability
from litestar_tasks.queues.postgres import PostgresQueue
from litestar_tasks.queues.postgres.migrations import migrate
from tests.conformance.brokers import Broker, Unavailable
from tests.servers import PostgresServer, postgres_binaries

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry


class PostgresBroker:
    """One server and one database for the session; each test has a namespace of its own."""

    capabilities: ClassVar[frozenset[Capability]] = PostgresQueue.capabilities

    def __init__(self) -> None:
        self._server: PostgresServer | None = None
        self._url = ""

    def start(self) -> None:
        if postgres_binaries() is None:
            raise Unavailable("Postgres is not installed on this machine")
        self._server = PostgresServer()
        self._url = self._server.create_database()
        migrate(self._url, lambda _: None)

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
        queue = PostgresQueue.from_url(
            self._url,
            label=label,
            namespace=namespace,
            registry=registry,
            lease=lease,
            renew_every=lease / 5,
            enqueue_deadline=10.0,  # how soon an enqueue gives up is no subject here, and machines are slow
            max_losses=max_losses,
            keep_complete=keep_complete,
            keep_failed=keep_failed,
        )
        await queue.connect()
        return queue

    async def vanish(self, queue: TaskQueue) -> None:
        assert isinstance(queue, PostgresQueue)
        consumer: Any = queue._consumer
        consumer._lease.stop()
        await consumer._upkeep.close()
        consumer._relay._task.cancel()
        for task in [*consumer._tasks, consumer._settling._task]:
            if task is not None:
                task.cancel()
        queue._listener.remove(consumer._announcer.work, consumer._command)
        await consumer._link.close()
        queue._consumer = None

    async def close(self, queue: TaskQueue) -> None:
        await queue.disconnect()


BROKERS: dict[str, Callable[[], Broker]] = {"postgres": PostgresBroker}
