"""Celery with one child process, since one worker process of each library is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "Celery (one child)"
PACKAGES = ("celery", "kombu", "redis")
REQUIREMENTS: tuple[str, ...] = ("celery[redis]>=5.5,<6",)
BULK = "group(…).apply_async(), 1,000 at a time"
SAFETY = "acknowledged when taken, as is its default; unacknowledged ones return after an hour"
JOBS = 2_000


def _app(url: str) -> tuple[Any, dict[str, Any]]:
    from celery import Celery

    app: Any = Celery("benchmark", broker=url, backend=url)
    app.conf.update(
        worker_prefetch_multiplier=32, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False
    )
    return app, {name: app.task(name=name)(body) for name, body in bodies.SYNC.items()}


class Producer:
    """An app that enqueues; its calls block, so nothing else runs in this process meanwhile."""

    async def open(self, url: str) -> None:
        self._app, self._tasks = _app(url)

    async def close(self) -> None:
        self._app.close()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return self._tasks[body].delay(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        from celery import group

        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            group(self._tasks[body].s(**arguments) for _ in part).apply_async()

    async def result(self, job: Any) -> None:
        job.get(timeout=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    app, _ = _app(url)
    ready()
    options = ["--pool=prefork", "--concurrency=1", "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options])


def unfinished(server: Any) -> int:
    return int(server.hlen("unacked")) + int(server.llen("celery"))
