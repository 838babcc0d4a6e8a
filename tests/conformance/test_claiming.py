"""Who gets which job, in which order, and what holds it."""

from __future__ import annotations

import asyncio
import time

import pytest
from saq.job import Status

from litestar_tasks.queues.base import Settlement, TaskQueue
from tests.conformance.hands import Hand, MakeQueue, enqueue, keys_of, millis, needs, record, stands


async def test_jobs_are_claimed_first_come_first_served(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abc")
    await enqueue(queue, *"de")
    assert "".join(keys_of(await hand.take(5))) == "abcde"


@needs("priorities")
async def test_lower_priorities_come_first_and_each_is_first_come_first_served(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for number in (0, 7, -3):
        await enqueue(queue, f"{number}a", f"{number}b", priority=number)
    await enqueue(queue, "0c")
    await enqueue(queue, "-100a", priority=-100)
    await enqueue(queue, "100a", priority=100)
    assert keys_of(await hand.take(9)) == ["-100a", "-3a", "-3b", "0a", "0b", "0c", "7a", "7b", "100a"]


@needs("shared")
async def test_the_fence_of_a_job_grows_though_a_worker_that_began_earlier_claims_it_later(make: MakeQueue) -> None:
    earlier, later = await Hand(await make()).open(), await Hand(await make()).open()
    await enqueue(earlier.queue, "k")
    first = await later.one()
    assert await later.queue.settle(first, Settlement.RETRY, delay=0.05)
    second = await earlier.one()
    assert second.fence > first.fence


async def test_a_claim_takes_no_more_than_it_asks_for(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcde")
    assert len(await queue.claim(2)) <= 2
    await hand.take(1)


async def test_an_empty_queue_answers_with_nothing_after_a_while(queue: TaskQueue) -> None:
    await Hand(queue).open()
    started = time.monotonic()
    assert await queue.claim(5) == []
    assert time.monotonic() - started < 10


async def test_a_waiting_claim_gets_what_is_enqueued(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    waiting = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0)
    await enqueue(queue, "k")
    assert keys_of(await waiting) == ["k"]


async def test_a_delayed_job_is_claimed_when_its_time_has_come_and_not_before(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    due = time.time() + 1
    await enqueue(queue, "k", delay=1)
    assert await queue.status("k") == "scheduled"
    assert (await hand.one()).key == "k"
    assert time.time() >= due - 0.01


@needs("priorities")
async def test_a_delayed_job_joins_its_own_priority(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "delayed", delay=0.1, priority=-1)
    await stands(queue, "delayed", "queued")
    await enqueue(queue, "plain")
    assert keys_of(await hand.take(2)) == ["delayed", "plain"]


async def test_a_claimed_job_says_who_runs_it_since_when(queue: TaskQueue) -> None:
    hand = await Hand(queue).open("me")
    await enqueue(queue, "k")
    job = await hand.one()
    assert (job.status, job.worker_id, job.lost) == (Status.ACTIVE, "me", False)
    assert abs(job.started - millis()) < 60_000
    stored = await record(queue, "k")
    assert (stored.status, stored.worker_id, stored.started) == (Status.ACTIVE, "me", job.started)
    assert await queue.status("k") == "active"


async def test_each_claim_of_a_job_has_a_greater_token(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    tokens = []
    for _ in range(3):
        job = await hand.one()
        tokens.append(job.token)
        await hand.hand_back(job)
    assert tokens == sorted(set(tokens))
    assert tokens[0] > 0


async def test_a_cancelled_claim_loses_nothing(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for number in range(5):
        waiting = asyncio.create_task(queue.claim(3))
        await asyncio.sleep(0.002 * number)
        await enqueue(queue, f"k{number}")
        waiting.cancel()
        held = (await asyncio.gather(waiting, return_exceptions=True))[0]
        for job in held if isinstance(held, list) else []:
            await hand.hand_back(job)
    assert sorted(keys_of(await hand.take(5))) == [f"k{number}" for number in range(5)]


@needs("shared")
async def test_workers_share_the_jobs_and_none_is_claimed_twice(queue: TaskQueue, make: MakeQueue) -> None:
    hands = [await Hand(await make()).open(f"w{number}") for number in range(3)]
    await enqueue(queue, *(f"k{number}" for number in range(300)))
    seen: list[str] = []

    async def drain(hand: Hand) -> None:
        while len(seen) < 300:
            for job in await hand.queue.claim(7):
                seen.append(job.key)
                await hand.end(job)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(drain, hands))
    assert sorted(seen) == sorted(f"k{number}" for number in range(300))
    assert (await queue.counts())["complete"] == 300


@needs("priorities")
@pytest.mark.parametrize("way", ["retry", "snooze", "hand_back", "rerun"])
async def test_a_job_keeps_its_priority_on_every_way_back(queue: TaskQueue, way: str) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", priority=-5)
    job = await hand.one()
    if way == "rerun":
        await hand.fail(job)
        assert await queue.rerun("k")
    else:
        assert await getattr(hand, way)(job)
    await enqueue(queue, "other", priority=-4)
    assert keys_of(await hand.take(2)) == ["k", "other"]


async def test_retries_and_snoozes_join_the_tail(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcd")
    first, second = await hand.take(2)
    assert await hand.retry(first)
    assert await hand.snooze(second)
    assert keys_of(await hand.take(4)) == ["c", "d", "a", "b"]


async def test_what_is_handed_back_waits_at_the_head(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abc")
    first, _ = await hand.take(2)
    assert await hand.hand_back(first)
    assert keys_of(await hand.take(2)) == ["a", "c"]


async def test_a_worker_that_stops_hands_everything_back_in_order(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcdef")
    await hand.take(4)
    await queue.close()
    assert await queue.count("queued") == 6
    await hand.open("next")
    jobs = await hand.take(6)
    assert "".join(keys_of(jobs)) == "abcdef"
    assert {job.attempts for job in jobs} == {0}


async def test_what_must_not_run_twice_is_failed_when_its_worker_stops(make: MakeQueue) -> None:
    queue = await make(lease=1.2)
    hand = await Hand(queue).open()
    await enqueue(queue, "once", meta={"at_most_once": True})
    await hand.one()
    await queue.close()
    await hand.open("next")
    await stands(queue, "once", "failed")
    assert "must not be started twice" in ((await record(queue, "once")).error or "")


async def test_a_queue_object_is_opened_by_one_worker(queue: TaskQueue) -> None:
    await Hand(queue).open()
    with pytest.raises(RuntimeError, match="open already"):
        await Hand(queue).open()


async def test_saqs_dequeue_claims_one_job(queue: TaskQueue) -> None:
    await enqueue(queue, "a", "b")
    job = await queue.dequeue(timeout=10)
    assert job is not None
    assert job.key == "a"
    await queue.finish(job, Status.COMPLETE, result=5)
    assert (await record(queue, "a")).result == 5
    assert await queue.status("b") == "queued"


async def test_what_a_running_job_says_of_itself_can_be_read(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    job = await hand.one()
    await job.update(progress=0.5)
    assert (await record(queue, "k")).progress == 0.5
    assert await queue.status("k") == "active"
    assert await hand.end(job, Settlement.COMPLETE)


async def test_fields_of_a_waiting_job_can_be_changed_and_its_state_not(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    await (await record(queue, "k")).update(meta={"note": "n"}, status=Status.COMPLETE)
    assert await queue.status("k") == "queued"
    job = await hand.one()
    assert job.meta["note"] == "n"
