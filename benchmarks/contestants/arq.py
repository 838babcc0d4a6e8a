"""arq."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "arq"
PACKAGES = ("arq", "redis", "hiredis")
REQUIREMENTS: tuple[str, ...] = ("arq>=0.26,<1",)
BULK = "asyncio.gather of enqueue_job, 200 at a time; it has nothing for many jobs"
SAFETY = "a job's lock expires with its timeout"
JOBS = 3_000


class Producer:
    """A pool."""

    async def open(self, url: str) -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        self._pool = await create_pool(RedisSettings.from_dsn(url))

    async def close(self) -> None:
        await self._pool.aclose()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._pool.enqueue_job(body, **arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        for start in range(0, count, 200):
            part = range(start, min(count, start + 200))
            await asyncio.gather(*(self._pool.enqueue_job(body, **arguments) for _ in part))

    async def result(self, job: Any) -> None:
        await job.result(timeout=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    functions = [func(_with_context(body), name=body.__name__) for body in bodies.ASYNC]
    settings = RedisSettings.from_dsn(url)
    worker: Any = Worker(functions, redis_settings=settings, max_jobs=concurrency, handle_signals=False)
    ready()
    await worker.async_run()


def unfinished(server: Any) -> int:
    return int(server.zcard("arq:queue"))


def _with_context(body: Callable[..., Any]) -> Callable[..., Any]:
    async def function(ctx: Any, **arguments: Any) -> Any:
        return await body(**arguments)

    return function
