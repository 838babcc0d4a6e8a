"""Schedules: once for each firing, as declared, through outages, jumps of the clock, deploys and operators."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from litestar_tasks import InvalidScheduleError, Registry, ScheduleNotFoundError
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.firing import fire_due
from litestar_tasks.queues.operations import JobFilter
from litestar_tasks.queues.schedule_book import QueueSchedules
from tests.conformance.clocks import Clock
from tests.conformance.hands import Hand, MakeQueue, eventually, listed, needs, record

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def registry() -> Registry:
    return new_registry()


def new_registry() -> Registry:
    registry = Registry("test", allow_local=True)

    @registry.task
    async def report(*, region: str = "eu") -> None: ...

    return registry


class Shop:
    """One queue, the registry of one release, and what an app's scheduler does with them."""

    def __init__(self, queue: TaskQueue, registry: Registry) -> None:
        self.queue = queue
        self.registry = registry
        self.book = QueueSchedules(registry, {queue.label: queue})

    def declare(self, task: str = "report", **options: Any) -> Shop:
        self.registry.schedule(self.registry.get_task(task), **options)
        return self

    async def start(self) -> Shop:
        await self.book.reconcile(self.queue)
        return self

    async def fire(self) -> None:
        """Fire until nothing is due."""
        for _ in range(1000):
            if not (await fire_due(self.queue)).due:
                return
        raise AssertionError("something is due for ever")

    async def fired(self) -> list[str]:
        """The keys of the jobs that were enqueued, in order."""
        return await listed(self.queue, "queued", newest_first=False)

    async def end_all(self) -> None:
        """Let every job that waits come to its end."""
        hand = await Hand(self.queue).open()
        for job in await hand.take(len(await self.fired())):
            await hand.end(job)
        await self.queue.close()


@pytest.fixture
async def shop(queue: TaskQueue, clock: Clock, registry: Registry) -> Shop:
    return Shop(clock.stop(queue), registry)


async def test_a_firing_is_one_job_at_its_moment(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="30 12 * * *", kwargs={"region": "us"}, timeout=12).start()
    await shop.fire()
    assert await shop.fired() == []
    await clock.step(minutes=29, seconds=59.999)
    await shop.fire()
    assert await shop.fired() == []
    await clock.step(seconds=0.001)
    await shop.fire()
    await shop.fire()
    assert await shop.fired() == ["report@20260302T123000Z"]
    job = await record(shop.queue, "report@20260302T123000Z")
    assert (job.function, job.kwargs, job.timeout) == ("report", {"region": "us"}, 12)
    assert job.meta["schedule"] == {"id": "report", "firing": 1_772_454_600_000}
