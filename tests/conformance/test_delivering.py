"""Rows of an outbox become jobs: in order, each once, however often and from wherever they come."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar_tasks.queues.base import Delivery, TaskQueue
from litestar_tasks.uniqueness import Lock
from tests.conformance.hands import Hand, MakeQueue, enqueue, keys_of, listed, needs, record, spec


async def delivery(
    queue: TaskQueue, row: str, key: str | None = None, *, once: bool = False, **options: Any
) -> Delivery:
    return Delivery(row, await queue.prepare(spec(key or row, **options)), once)


async def test_rows_become_jobs_in_their_order(queue: TaskQueue) -> None:
    rows = [f"r{number:03}" for number in range(450)]
    await queue.deliver([await delivery(queue, row) for row in rows])
    assert keys_of(await (await Hand(queue).open()).take(450)) == rows


async def test_a_row_that_comes_again_is_heeded_once_though_its_job_has_ended(queue: TaskQueue) -> None:
    await queue.deliver([await delivery(queue, "r", "k")])
    await queue.deliver([await delivery(queue, "r", "k"), await delivery(queue, "s")])
    hand = await Hand(queue).open()
    for job in await hand.take(2):
        await hand.end(job)
    await queue.deliver([await delivery(queue, "s"), await delivery(queue, "r", "k"), await delivery(queue, "t")])
    assert keys_of(await hand.take(1)) == ["t"]
    assert await queue.claim(1) == []


@needs("shared")
async def test_rows_that_several_processes_deliver_at_the_same_time_become_one_job_each_in_order(
    queue: TaskQueue, make: MakeQueue
) -> None:
    others = [queue, await make(), await make()]
    rows = [f"r{number:03}" for number in range(600)]
    await asyncio.gather(*[one.deliver([await delivery(one, row) for row in rows]) for one in others])
    assert keys_of(await (await Hand(queue).open()).take(600)) == rows
    assert await queue.claim(1) == []


async def test_a_row_whose_key_is_taken_is_heeded_and_stores_nothing(queue: TaskQueue) -> None:
    await enqueue(queue, "k")
    await queue.deliver([await delivery(queue, "r", "k", kwargs={"from": "row"})])
    hand = await Hand(queue).open()
    job = await hand.one()
    assert not job.kwargs
    await hand.end(job)
    await queue.deliver([await delivery(queue, "r", "k")])
    assert await queue.claim(1) == []
    await queue.deliver([await delivery(queue, "s", "k", once=True), await delivery(queue, "t", "k")])
    assert keys_of(await hand.take(1)) == ["k"]  # the second: the first is refused for the record's sake
    assert await queue.claim(1) == []


async def test_two_rows_of_one_key_and_one_call_are_one_job(queue: TaskQueue) -> None:
    await queue.deliver([await delivery(queue, "r", "k"), await delivery(queue, "s", "k"), await delivery(queue, "t")])
    assert keys_of(await (await Hand(queue).open()).take(2)) == ["k", "t"]


async def test_a_row_keeps_its_priority_and_its_moment(queue: TaskQueue) -> None:
    await queue.deliver(
        [
            await delivery(queue, "last", priority=5),
            await delivery(queue, "later", delay=60),
            await delivery(queue, "first", priority=-5),
        ]
    )
    assert await listed(queue, "scheduled") == ["later"]
    assert keys_of(await (await Hand(queue).open()).take(2)) == ["first", "last"]


@needs("shared")
async def test_rows_that_are_gone_are_heeded_a_while_longer(queue: TaskQueue) -> None:
    await queue.deliver([await delivery(queue, "r")])
    await queue.release(["r", "never-was"])
    await queue.deliver([await delivery(queue, "r")])
    hand = await Hand(queue).open()
    await hand.end(await hand.one())
    assert await queue.claim(1) == []
    assert (await record(queue, "r")).key == "r"


async def test_a_server_has_one_name_as_long_as_it_runs(queue: TaskQueue, make: MakeQueue) -> None:
    other = await make()
    assert await queue.incarnation() == await other.incarnation()
    assert (await queue.incarnation() is None) is ("shared" not in queue.capabilities)


async def test_a_row_of_a_unique_call_takes_its_lock_and_is_heeded_once(queue: TaskQueue) -> None:
    lock = Lock(name="a" * 32, until="finished")
    await queue.deliver([await delivery(queue, "r", lock=lock), await delivery(queue, "s", lock=lock)])
    await queue.deliver([await delivery(queue, "r", lock=lock)])
    hand = await Hand(queue).open()
    job = await hand.one()
    assert job.key == "r"
    await hand.end(job)
    await queue.deliver([await delivery(queue, "s", lock=lock), await delivery(queue, "t", lock=lock)])
    assert keys_of(await hand.take(1)) == ["t"]  # the second row was heeded while another job stood for it
    assert await queue.claim(1) == []
