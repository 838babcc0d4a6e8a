"""What becomes of jobs whose worker is gone."""

from __future__ import annotations

import asyncio
import time

from saq.job import Status

from litestar_tasks.queues.base import TaskQueue
from tests.conformance.brokers import Broker
from tests.conformance.hands import Hand, MakeQueue, enqueue, eventually, keys_of, needs, record, stands

pytestmark = needs("leases", "shared")

LEASE = 1.2


async def test_the_jobs_of_a_lost_worker_go_on_elsewhere_at_the_head(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, *"abcdef")
    await first.take(3)
    await broker.vanish(first.queue)
    await _recovered(second.queue, 6)
    jobs = await second.take(6)
    assert "".join(keys_of(jobs)) == "abcdef"
    assert {job.attempts for job in jobs} == {0}


async def test_a_healthy_worker_is_left_alone(make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, "k")
    job = await first.one()
    deadline = time.monotonic() + 2.5 * LEASE
    while time.monotonic() < deadline:
        assert await second.queue.claim(1) == []
    assert await second.queue.status("k") == "active"
    assert await first.end(job)
    assert first.lost == []


async def test_a_job_that_takes_its_workers_with_it_is_failed(broker: Broker, make: MakeQueue) -> None:
    finder = await Hand(await make(lease=LEASE, max_losses=2)).open("finder")
    await enqueue(finder.queue, "poison")
    await enqueue(finder.queue, "tough", meta={"max_losses": 9})
    for _ in range(2):
        victim = await Hand(await make(lease=LEASE, max_losses=2)).open("victim")
        await victim.take(2)
        await broker.vanish(victim.queue)
        await _active(finder.queue, 0)
    job = await record(finder.queue, "poison")
    assert (job.status, "2 workers were lost" in (job.error or "")) == (Status.FAILED, True)
    assert await finder.queue.status("tough") == "queued"


async def test_what_must_not_run_twice_is_failed_when_its_worker_is_lost(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, "once", meta={"at_most_once": True})
    await first.one()
    await broker.vanish(first.queue)
    await stands(second.queue, "once", "failed")
    assert "must not be started twice" in ((await record(second.queue, "once")).error or "")


async def test_an_abort_holds_though_the_worker_that_was_asked_is_lost(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, "k")
    await first.one()
    await broker.vanish(first.queue)
    assert await second.queue.cancel("k", "enough")
    await stands(second.queue, "k", "aborted")
    assert (await record(second.queue, "k")).error == "enough"


async def test_who_waits_for_a_lost_job_gets_the_result_of_the_next_run(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, "k")
    waiting = asyncio.create_task(second.queue.wait("k", 60))
    await first.one()
    await broker.vanish(first.queue)
    await _recovered(second.queue, 1)
    await second.end(await second.one(), result="second")
    job = await waiting
    assert job is not None
    assert job.result == "second"


@needs("pause")
async def test_jobs_are_recovered_while_the_queue_is_paused(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await enqueue(first.queue, "k")
    await first.one()
    await second.queue.pause()
    await broker.vanish(first.queue)
    await _recovered(second.queue, 1)
    assert await second.queue.claim(1) == []


async def _recovered(queue: TaskQueue, count: int) -> None:
    async def waiting() -> bool:
        return await queue.count("queued") == count

    await eventually(waiting, within=30)


async def _active(queue: TaskQueue, count: int) -> None:
    async def running() -> bool:
        return await queue.count("active") == count

    await eventually(running, within=30)
