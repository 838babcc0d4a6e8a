"""dramatiq: threads, sync tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "dramatiq"
PACKAGES = ("dramatiq", "redis", "hiredis")
REQUIREMENTS: tuple[str, ...] = ("dramatiq[redis]>=2,<3",)
BULK = "group(…).run(), 1,000 at a time"
SAFETY = "messages of a worker without heartbeat are put back"
JOBS = 5_000


def _broker(url: str) -> tuple[Any, dict[str, Any]]:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker: Any = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)
    actor = dramatiq.actor
    return broker, {name: actor(body, actor_name=name, store_results=True) for name, body in bodies.SYNC.items()}


class Producer:
    """A broker that enqueues; its calls block, so nothing else runs in this process meanwhile."""

    async def open(self, url: str) -> None:
        self._broker, self._actors = _broker(url)

    async def close(self) -> None:
        self._broker.close()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return self._actors[body].send(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        from dramatiq import group

        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            group([self._actors[body].message_with_options(kwargs=arguments) for _ in part]).run()

    async def result(self, job: Any) -> None:
        job.get_result(block=True, timeout=2000)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    import dramatiq

    broker, _ = _broker(url)
    dramatiq.Worker(broker, worker_threads=concurrency).start()
    ready()
    await asyncio.Event().wait()


def unfinished(server: Any) -> int:
    return int(server.hlen("dramatiq:default.msgs"))
