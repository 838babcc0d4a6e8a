"""litestar-queues on its Redis backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "litestar-queues (Redis)"
PACKAGES = ("litestar-queues", "redis", "hiredis")
REQUIREMENTS: tuple[str, ...] = ("litestar-queues[redis]>=0.12,<0.13",)
BULK = "its backend's enqueue_many, 1,000 at a time"
SAFETY = "heartbeats of running jobs"
JOBS = 3_000


def _service(url: str, concurrency: int = 32) -> tuple[Any, dict[str, Any]]:
    from litestar_queues import QueueConfig, WorkerConfig, task
    from litestar_queues.backends.redis import RedisBackendConfig

    tasks = {body.__name__: task(body.__name__)(body) for body in bodies.ASYNC}
    worker = WorkerConfig(max_concurrency=concurrency, batch_size=concurrency)
    return QueueConfig(queue_backend=RedisBackendConfig(url=url), worker=worker).get_service(), tasks


class Producer:
    """A service that enqueues."""

    async def open(self, url: str) -> None:
        self._service, self._tasks = _service(url)
        await self._service.open()

    async def close(self) -> None:
        await self._service.close()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._service.enqueue(self._tasks[body], **arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        from litestar_queues.models import TaskRequest

        backend = self._service.get_queue_backend()
        await backend.open()  # marks its keys as current; the server has been emptied since the producer did
        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            await backend.enqueue_many([TaskRequest(body, kwargs=arguments) for _ in part])

    async def result(self, job: Any) -> None:
        await job.wait(timeout=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    from litestar_queues.worker import Worker

    service, _ = _service(url, concurrency)
    await service.open()
    ready()
    await Worker(service).start()


def unfinished(server: Any) -> int:
    return int(server.zcard("litestar_queues:ready")) + int(server.zcard("litestar_queues:maintenance:running"))
