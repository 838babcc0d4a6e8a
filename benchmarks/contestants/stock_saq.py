"""SAQ without this project, as its documentation shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import bodies

LABEL = "stock SAQ"
PACKAGES = ("saq", "redis", "hiredis")
REQUIREMENTS: tuple[str, ...] = ()
BULK = "asyncio.gather of enqueue, 1,000 at a time; it has nothing for many jobs"
SAFETY = "a sweep by each job's timeout or heartbeat"
JOBS = 5_000


class Producer:
    """A queue that enqueues."""

    async def open(self, url: str) -> None:
        from saq import Queue

        self._queue = Queue.from_url(url)
        await self._queue.connect()

    async def close(self) -> None:
        await self._queue.disconnect()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._queue.enqueue(body, **arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            await asyncio.gather(*(self._queue.enqueue(body, **arguments) for _ in part))

    async def result(self, job: Any) -> None:
        # The fast one of SAQ's two ways to wait; `apply` polls twice a second.
        await job.refresh(until_complete=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    from saq import Queue, Worker

    queue = Queue.from_url(url)
    await queue.connect()
    functions = [(body.__name__, _with_context(body)) for body in bodies.ASYNC]
    worker: Any = Worker(queue, functions=functions, concurrency=concurrency)
    ready()
    await worker.start()


def unfinished(server: Any) -> int:
    return int(server.zcard("saq:default:incomplete"))


def _with_context(body: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def function(ctx: Any, **arguments: Any) -> Any:
        return await body(**arguments)

    return function
