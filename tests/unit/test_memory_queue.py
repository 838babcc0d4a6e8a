"""The queue in memory: what it does beside what all brokers do."""

from __future__ import annotations

import random

from litestar_tasks import Registry, TasksConfig
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import Settlement, WorkerHooks
from litestar_tasks.queues.broker import Broker
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.queues.memory.order import Order
from litestar_tasks.queues.operations import JobFilter


def test_an_order_holds_its_keys_in_order_through_any_changes() -> None:
    order, plain, chance = Order(), list[tuple[float, int, str]](), random.Random(7)
    for number in range(2_000):
        key, by = f"k{chance.randrange(300)}", float(chance.randrange(20))
        plain = [entry for entry in plain if entry[2] != key]
        if chance.random() < 0.3:
            order.drop(key)
        else:
            first = chance.random() < 0.2
            order.put(key, by, first=first)
            plain.append((by, -number if first else number, key))
        if chance.random() < 0.05:
            taken = order.take(3)
            plain.sort()
            assert taken == [key for *_, key in plain[:3]]
            del plain[:3]
    plain.sort()
    assert [key for _, key in order.walk(down=False, after=None)] == [key for *_, key in plain]
    assert [key for _, key in order.walk(down=True, after=None)] == [key for *_, key in plain][::-1]
    low, high = 5.0, 12.0
    assert [key for _, key in order.walk(low=low, high=high, down=False, after=None)] == [
        key for by, _, key in plain if low <= by < high
    ]
    for down in (False, True):
        entries = list(order.walk(down=down, after=None))
        middle = len(entries) // 2
        assert list(order.walk(down=down, after=entries[middle][0])) == entries[middle + 1 :]


async def test_a_listing_reads_no_more_records_than_it_shows() -> None:
    queue = MemoryQueue()
    for number in range(3_000):
        await queue.submit(JobSpec(task="noop", key=f"k{number}", kwargs={}))
    read: list[object] = []
    deserialize = queue.deserialize
    queue.deserialize = lambda payload: (read.append(payload), deserialize(payload))[1]  # type: ignore[method-assign,assignment,func-returns-value]  # to count
    first = await queue.page(JobFilter(state="queued"), limit=20)
    await queue.page(JobFilter(state="queued"), limit=20, cursor=first.cursor)
    assert len(read) == 40
    await queue.page(JobFilter(state="queued", task="other"))
    assert len(read) == 540


async def test_a_queues_settings_bound_what_it_keeps() -> None:
    registry = Registry("test")
    configs = registry.queue_configs(default={"keep_complete": 2, "keep_failed": 1})
    broker = Broker(TasksConfig(registry=registry, broker_url="memory://", queue_configs=configs))
    await broker.connect()
    queue = broker.find("default")
    await queue.open("worker", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    for settlement in (Settlement.COMPLETE, Settlement.FAILED, Settlement.ABORTED):
        for _ in range(5):
            await queue.submit(JobSpec(task="noop", kwargs={}))
            (job,) = await queue.claim(1)
            await queue.settle(job, settlement)
    counts = await queue.counts()
    assert (counts["complete"], counts["failed"], counts["aborted"]) == (2, 1, 1)
    await broker.disconnect()
