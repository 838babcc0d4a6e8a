"""``python -m benchmarks schedules``: how late schedules fire, and what they cost a worker while none is due."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import timedelta

from benchmarks import report, server
from litestar_tasks import Registry
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.queues.schedule_book import QueueSchedules
from litestar_tasks.worker.scheduler import Scheduler

FIRING = 10
"""Schedules that fire each second."""
SECONDS = 30
WAITING = 10_000
"""Schedules of which none is due."""


def main() -> None:
    """Measure one worker's scheduler on a Redis of its own, and print a row for each question."""
    with server.run() as own:
        print(report.machine(own.version))
        database = own.database(0)
        late = asyncio.run(_precision(database.url))
        database.clear()
        share, start = asyncio.run(_idle(database.url))
        database.clear()
    worst = sorted(late)[int(len(late) * 0.99)]
    print(f"\n{len(late)} firings of {FIRING} schedules, one a second each, by one worker:")
    print(f"stored {statistics.median(late):.1f} ms after their moment (median), {worst:.1f} ms (p99)")
    print(f"\n{WAITING:,} schedules, none due: {100 * share:.2f} % of a core; read at the start in {start:.1f} s")


async def _precision(url: str) -> list[float]:
    registry = _registry()
    for number in range(FIRING):
        registry.schedule(registry.get_task("noop"), id=f"s{number}", every=timedelta(seconds=1), overlap="allow")
    queue = RedisQueue.from_url(url, registry=registry, keep_complete=0)
    running = _start(registry, queue)
    await asyncio.sleep(SECONDS)
    await _stop(running)
    late = [job.queued - job.meta["schedule"]["firing"] async for job in queue.iter_jobs()]
    await queue.disconnect()
    return late


async def _idle(url: str) -> tuple[float, float]:
    registry = _registry()
    for number in range(WAITING):
        registry.schedule(registry.get_task("noop"), id=f"s{number}", cron=f"{number % 60} 0 1 1 *")
    queue = RedisQueue.from_url(url, registry=registry)
    began = time.perf_counter()
    await QueueSchedules(registry, {queue.label: queue}).reconcile(queue)
    took = time.perf_counter() - began
    running = _start(registry, queue)
    await asyncio.sleep(2 * took + 2)  # it has read them, too
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(SECONDS)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    await _stop(running)
    await queue.disconnect()
    return share, took


def _registry() -> Registry:
    registry = Registry("benchmark", allow_local=True)

    @registry.task
    async def noop() -> None: ...

    return registry


def _start(registry: Registry, queue: RedisQueue) -> asyncio.Task[None]:
    queues = {queue.label: queue}
    return asyncio.create_task(Scheduler(QueueSchedules(registry, queues), queues, queues).run())


async def _stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
