"""streaQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "streaQ"
PACKAGES = ("streaq", "coredis")
REQUIREMENTS: tuple[str, ...] = ("streaq>=7.2,<8",)
BULK = "Worker.enqueue_many, 1,000 at a time"
SAFETY = "idle stream entries are claimed anew"
JOBS = 5_000


def _worker(url: str, concurrency: int = 32) -> tuple[Any, dict[str, Any]]:
    from streaq import Worker

    worker: Any = Worker(redis_url=url, concurrency=concurrency)
    return worker, {body.__name__: worker.task(name=body.__name__)(body) for body in bodies.ASYNC}


class Producer:
    """A worker object that only enqueues."""

    async def open(self, url: str) -> None:
        self._worker, self._tasks = _worker(url)
        await self._worker.__aenter__()

    async def close(self) -> None:
        await self._worker.__aexit__(None, None, None)

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._tasks[body].enqueue(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        task = self._tasks[body]
        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            await self._worker.enqueue_many([task.enqueue(**arguments) for _ in part])

    async def result(self, job: Any) -> None:
        await job.result(2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    worker, _ = _worker(url, concurrency)
    ready()
    await worker.run_async()


def unfinished(server: Any) -> int:
    return sum(server.xlen(key) for key in server.scan_iter("streaq:*:stream:*"))
