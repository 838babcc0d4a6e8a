"""A network that delays, cuts and swallows, between workers and their broker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from litestar_tasks import QueueUnavailableError
from tests.chaos.conftest import LEASE, LONG, Field
from tests.chaos.ledger_app import create_app, work
from tests.chaos.proxy import Proxy
from tests.chaos.test_chaos import all_ended, enqueue

pytestmark = pytest.mark.timeout(120 * max(1, LONG))

chance = random.Random(20260102)


@pytest.fixture
def proxy(field: Field) -> Iterator[Proxy]:
    between = Proxy(Path(field.server.folder, "s"))
    yield between
    between.close()


@pytest.mark.usefixtures("plugin")
async def test_cut_and_slow_connections_lose_and_double_nothing(field: Field, proxy: Proxy) -> None:
    proxy.delay = 0.005
    for _ in range(2):
        field.start_worker(BROKER_URL=proxy.url)
    keys: list[str] = []
    for _ in range(int(10 * LONG)):
        keys += await enqueue(50, slowest=0.1)
        await asyncio.sleep(chance.random() * 0.6)
        proxy.cut()
    await field.until(all_ended(field, keys), seconds=60, what="the end of every job")
    await field.until(lambda: field.active() == 0, seconds=20, what="everything settled")
    field.assert_each_ran_once(keys)


@pytest.mark.usefixtures("plugin")
async def test_a_connection_that_went_silent_is_noticed(field: Field, proxy: Proxy) -> None:
    worker = field.start_worker(BROKER_URL=proxy.url)
    keys = await enqueue(5, slowest=0)
    await field.until(all_ended(field, keys), seconds=20, what="the worker's start")
    proxy.go_deaf()
    keys = await enqueue(10, slowest=0)
    await field.until(all_ended(field, keys), seconds=15, what=f"the worker's recovery: {worker.output}")
    await field.until(lambda: field.active() == 0, seconds=20, what="everything settled")


@pytest.mark.usefixtures("plugin")
async def test_a_worker_that_is_cut_off_for_longer_than_its_lease_cannot_settle(field: Field, proxy: Proxy) -> None:
    cut_off = field.start_worker(BROKER_URL=proxy.url)
    handle = await work.enqueue(seconds=LEASE * 2)
    key = handle.id.rpartition(":")[2]
    await field.until(lambda: key in field.entries("start"), seconds=20, what="the start")
    field.start_worker()
    proxy.swallow = True
    await field.until(lambda: len(field.entries("start")[key]) == 2, seconds=20, what="the second run")
    assert await handle.result(timeout=20) == "done"
    proxy.swallow = False
    proxy.cut()
    await field.until(lambda: "lease" in cut_off.output, seconds=20, what="the word of who was cut off")
    assert await handle.status() == "complete"


async def test_an_enqueue_into_a_black_hole_raises_in_time_and_can_be_repeated(
    field: Field, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", proxy.url)
    from litestar_tasks import TasksPlugin

    async with create_app().plugins.get(TasksPlugin).attached():
        await work.using(key="before").enqueue(seconds=0)
        proxy.swallow = True
        before = time.monotonic()
        with pytest.raises(QueueUnavailableError) as caught:
            await work.using(key="once").enqueue(seconds=0)
        assert time.monotonic() - before < 2 + 1.5
        assert caught.value.maybe_enqueued
        assert caught.value.job_id == "saq:job:default:once"
        proxy.swallow = False
        proxy.cut()
        handle = await work.using(key="once").enqueue(seconds=0)
        worker = field.start_worker()
        assert await handle.result(timeout=20) == "done"
        await field.until(lambda: field.active() == 0, seconds=10, what=worker.output)
        field.assert_each_ran_once(["before", "once"])
