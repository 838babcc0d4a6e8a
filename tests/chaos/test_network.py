"""A network that delays, cuts and swallows, between workers and their broker, or between producers and it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from litestar_tasks import JobHandle, QueueUnavailableError, TasksPlugin
from tests.chaos.conftest import LEASE, LONG, PROMISE, Field, times
from tests.chaos.ledger_app import create_app, work
from tests.chaos.proxy import Proxy
from tests.chaos.test_chaos import accept, enqueue

pytestmark = pytest.mark.timeout(240 * max(1, LONG))

chance = random.Random(20260102)


@pytest.fixture
def proxy(field: Field) -> Iterator[Proxy]:
    between = Proxy(Path(field.server.folder, "s"))
    yield between
    between.close()


@pytest.fixture
async def cut_off_producer(field: Field, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The test enqueues through the proxy; workers reach the server without it."""
    monkeypatch.setenv("BROKER_URL", proxy.url)
    async with create_app().plugins.get(TasksPlugin).attached():
        yield


@pytest.mark.usefixtures("plugin")
async def test_cut_slow_and_silent_connections_lose_and_double_nothing(field: Field, proxy: Proxy) -> None:
    # A lease that outlasts every silence here, however slow the machine: what is run twice is not owed to a lost lease.
    field.start_workers(2, BROKER_URL=proxy.url, LEASE="15")
    keys: list[str] = []
    for number in range(times(10, 250)):
        proxy.delay = chance.choice((0, 0.005, 0.02))
        keys += await enqueue(field, 50, slowest=0.1)
        await asyncio.sleep(chance.random() * 0.5)
        if number % 5 == 4:
            proxy.swallow = True
            await asyncio.sleep(chance.random())
            field.counts["silences"] += 1
        field.counts["connections cut"] += proxy.cut() // 2
        proxy.swallow = False
    await field.until_all_ended(keys)
    field.assert_each_ran_once(keys)


@pytest.mark.usefixtures("plugin")
async def test_a_connection_that_went_silent_is_noticed(field: Field, proxy: Proxy) -> None:
    worker = field.start_worker(BROKER_URL=proxy.url)
    await field.until_all_ended(await enqueue(field, 5, slowest=0))
    await field.until(worker.is_up, seconds=20, what="the worker's start")
    proxy.go_deaf()
    await field.until_all_ended(await enqueue(field, 10, slowest=0), seconds=15)


@pytest.mark.usefixtures("plugin")
async def test_a_worker_that_is_cut_off_for_longer_than_its_lease_cannot_settle(field: Field, proxy: Proxy) -> None:
    cut_off = field.start_worker(BROKER_URL=proxy.url)
    handle = await work.enqueue(seconds=LEASE * 2)
    (key,) = accept(field, [handle])
    await field.until(lambda: key in field.starts(), seconds=20, what="the start")
    field.start_worker()
    proxy.swallow = True
    await field.until(lambda: len(field.starts()[key]) == 2, seconds=PROMISE, what="the second run")
    assert await handle.result(timeout=20) == "done"
    proxy.swallow = False
    proxy.cut()
    await field.until(lambda: "lease" in cut_off.output, seconds=20, what="the word of who was cut off")
    assert await handle.status() == "complete"


@pytest.mark.alone
@pytest.mark.usefixtures("cut_off_producer")
async def test_an_enqueue_into_a_black_hole_raises_in_time_and_can_be_repeated(field: Field, proxy: Proxy) -> None:
    accept(field, [await work.using(key="before").enqueue(seconds=0)])
    proxy.swallow = True
    before = time.monotonic()
    with pytest.raises(QueueUnavailableError) as caught:
        await work.using(key="once").enqueue(seconds=0)
    assert time.monotonic() - before < 2 + 8
    assert caught.value.maybe_enqueued
    assert caught.value.job_id == "saq:job:default:once"
    proxy.swallow = False
    proxy.cut()
    handle = await work.using(key="once").enqueue(seconds=0)
    accept(field, [handle])
    field.start_worker()
    assert await handle.result(timeout=20) == "done"
    await field.until_all_ended(["before", "once"])
    field.assert_each_ran_once(["before", "once"])


@pytest.mark.usefixtures("cut_off_producer")
async def test_a_job_whose_enqueue_was_answered_too_late_is_stored_once_when_it_is_sent_again(
    field: Field, proxy: Proxy
) -> None:
    """It got in at the first attempt, and has ended before the second."""
    field.start_worker()
    await work.using(key="before").enqueue(seconds=0)
    proxy.swallow_answers = True
    with pytest.raises(QueueUnavailableError) as caught:
        await work.using(key="once").enqueue(seconds=0)
    assert caught.value.maybe_enqueued
    await field.until_all_ended(["before", "once"])
    proxy.swallow_answers = False
    proxy.cut()
    handle = await work.using(key="once").enqueue(seconds=0)
    assert await handle.result(timeout=20) == "done"
    await field.until_all_ended(accept(field, [handle]))
    field.assert_each_ran_once(["before", "once"])


@pytest.mark.usefixtures("cut_off_producer")
async def test_a_key_that_is_used_again_is_stored_though_the_first_attempt_was_swallowed(
    field: Field, proxy: Proxy
) -> None:
    """The job that had the key before has ended, and its record is still there."""
    field.start_worker()
    await field.until_all_ended(accept(field, [await work.using(key="again").enqueue(seconds=0)]))
    proxy.swallow = True
    sending = asyncio.create_task(work.using(key="again").enqueue(seconds=0))
    await asyncio.sleep(0.3)
    proxy.swallow = False
    proxy.cut()
    handle = await sending
    assert not handle.deduplicated
    await field.until(lambda: len(field.ends()["again"]) == 2, seconds=20, what="the second job")


@pytest.mark.usefixtures("cut_off_producer")
async def test_what_a_cut_off_producer_sends_again_is_never_lost_while_workers_are_killed(
    field: Field, proxy: Proxy
) -> None:
    field.start_workers(2)
    unsure: set[str] = set()
    number = 0
    # For longer than an enqueue waits, and for shorter: then the library itself sends again.
    silences = itertools.cycle(itertools.product((0.1, 2.5, 0.6), ("swallow", "swallow_answers")))
    for seconds, silence in itertools.islice(silences, times(6, 100)):
        sending = [asyncio.create_task(insist(field, f"k{number + n}", unsure)) for n in range(30)]
        number += len(sending)
        await asyncio.sleep(chance.random() * 0.1)
        setattr(proxy, silence, True)
        await asyncio.sleep(seconds)
        setattr(proxy, silence, False)
        proxy.cut()
        await field.kill_beside_another(chance.choice(field.living))
        field.start_worker()
        accept(field, await asyncio.gather(*sending))
    await field.until_all_ended(field.accepted)
    field.assert_runs_again_are_owed_to_kills()
    field.counts["enqueues that may have got in"] = len(unsure)


async def insist(field: Field, key: str, unsure: set[str]) -> JobHandle[str]:
    """Enqueue as a caller does who wants it done: until there is an answer, under the same key."""
    await asyncio.sleep(chance.random() * 0.3)
    seconds = chance.random() ** 3 * 0.2
    while True:
        try:
            return await work.using(key=key).enqueue(seconds=seconds)
        except QueueUnavailableError as error:
            field.counts["enqueues sent again"] += 1
            if error.maybe_enqueued:
                unsure.add(key)
            await asyncio.sleep(0.05)
