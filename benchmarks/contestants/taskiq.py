"""taskiq on a Redis list, the fastest of taskiq-redis's brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "taskiq (list)"
PACKAGES = ("taskiq", "taskiq-redis", "redis")
REQUIREMENTS: tuple[str, ...] = ("taskiq>=0.11", "taskiq-redis>=1.2,<2")
BULK = "asyncio.gather of kiq, 200 at a time; it has nothing for many jobs"
SAFETY = "none: what a crashed worker had taken is gone"
JOBS = 5_000


def _broker(url: str) -> tuple[Any, dict[str, Any]]:
    from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

    broker: Any = ListQueueBroker(url=url).with_result_backend(
        RedisAsyncResultBackend(redis_url=url, result_ex_time=600)
    )
    return broker, {body.__name__: broker.task(task_name=body.__name__)(body) for body in bodies.ASYNC}


class Producer:
    """A broker that enqueues."""

    async def open(self, url: str) -> None:
        self._broker, self._tasks = _broker(url)
        await self._broker.startup()

    async def close(self) -> None:
        await self._broker.shutdown()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._tasks[body].kiq(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        for start in range(0, count, 200):
            part = range(start, min(count, start + 200))
            await asyncio.gather(*(self._tasks[body].kiq(**arguments) for _ in part))

    async def result(self, job: Any) -> None:
        await job.wait_result(timeout=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    from taskiq.api import run_receiver_task

    broker, _ = _broker(url)
    broker.is_worker_process = True
    ready()
    await run_receiver_task(broker, max_async_tasks=concurrency, run_startup=True)


def unfinished(server: Any) -> int:
    # It keeps no record of what is running: what was enqueued has ended when there is a result for it.
    from benchmarks import marks

    return int(server.llen("taskiq")) + max(0, marks.count() - int(server.dbsize()))
