"""litestar-tasks as its users run it: an app with the plugin, typed calls, and the plugin's worker; nothing is off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from litestar import Litestar

from benchmarks import bodies
from litestar_tasks import JobHandle, QueueConfig, Registry, TasksConfig, TasksPlugin, enqueue_many

LABEL = "litestar-tasks"
PACKAGES = ("litestar-tasks", "saq", "redis", "hiredis")
REQUIREMENTS: tuple[str, ...] = ()
BULK = "enqueue_many of bound calls, arguments validated, all at once"
SAFETY = "leases, fencing tokens, atomic settling; recovers the jobs of lost workers"
JOBS = 50_000

registry = Registry("benchmark")
TASKS = {body.__name__: registry.task(body) for body in bodies.ASYNC}


def plugin_of(url: str, concurrency: int = 1) -> TasksPlugin:
    queue = QueueConfig(name="default", concurrency=concurrency)
    return TasksPlugin(TasksConfig(registry=registry, broker_url=url, queue_configs=[queue]))


class Producer:
    """An app that enqueues."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self, url: str) -> None:
        app = Litestar(plugins=[plugin_of(url)], logging_config=None)
        await self._stack.enter_async_context(app.lifespan())

    async def close(self) -> None:
        await self._stack.aclose()

    async def enqueue(self, body: str, **arguments: Any) -> JobHandle[Any]:
        return await TASKS[body].enqueue(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        task = TASKS[body]
        await enqueue_many([task.bind(**arguments) for _ in range(count)])

    async def result(self, job: JobHandle[Any]) -> None:
        await job.result(timeout=2)


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    """What a child of ``litestar workers run`` does."""
    plugin = plugin_of(url, concurrency)
    await plugin.run_worker(Litestar(plugins=[plugin], logging_config=None), on_ready=ready)


def unfinished(server: Any) -> int:
    return int(server.zcard("saq:default:incomplete"))
