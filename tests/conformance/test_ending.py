"""How jobs end: settled, aborted, waited for."""

from __future__ import annotations

import asyncio

import pytest
from saq.job import Status

from litestar_tasks.queues.base import Settlement, TaskQueue
from tests.conformance.hands import Hand, MakeQueue, enqueue, eventually, keys_of, listed, needs, record, stands


async def test_a_complete_job_has_its_result(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    assert await hand.end(await hand.one(), result={"r": [1.5, None]})
    job = await record(queue, "k")
    assert (job.status, job.result, job.attempts, job.error) == (Status.COMPLETE, {"r": [1.5, None]}, 1, None)
    assert job.completed >= job.started > 0
    assert await queue.count("incomplete") == 0


async def test_a_failed_job_has_its_error(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    assert await hand.fail(await hand.one(), "ValueError: ü")
    assert ((await record(queue, "k")).status, (await record(queue, "k")).error) == (Status.FAILED, "ValueError: ü")


async def test_a_job_is_settled_once(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    job = await hand.one()
    assert await hand.end(job, result=1)
    assert not await hand.end(job, result=2)
    assert not await hand.retry(job)
    assert (await record(queue, "k")).result == 1


async def test_a_claim_that_was_given_up_settles_nothing_any_more(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    old = await hand.one()
    await hand.hand_back(old)
    new = await hand.one()
    assert new.token != old.token
    assert not await hand.end(old, result="old")
    assert await queue.status("k") == "active"
    assert await hand.end(new, result="new")
    assert (await record(queue, "k")).result == "new"


async def test_several_jobs_say_together_where_they_stand(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "complete", "failed", "active")
    complete, failed, _ = await hand.take(3)
    await hand.end(complete)
    await hand.fail(failed, "no")
    await enqueue(queue, "scheduled", delay=100)
    await enqueue(queue, "queued", *(f"k{number}" for number in range(150)))
    stand = ["complete", "failed", "active", "scheduled", "queued"]
    found = await queue.statuses([*stand, "nothing", *(f"k{number}" for number in range(150))])
    assert [found.pop(key) for key in stand] == stand
    assert set(found.values()) == {"queued"}
    assert len(found) == 150
    assert await queue.statuses([]) == {}


async def test_a_retry_counts_and_keeps_its_error(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", max_attempts=3)
    await hand.retry(await hand.one())
    assert await queue.status("k") == "queued"
    job = await hand.one()
    assert (job.attempts, job.error) == (1, "ValueError: again")


async def test_a_retry_with_a_delay_waits_for_its_time(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    await hand.retry(await hand.one(), delay=0.3)
    assert await queue.status("k") == "scheduled"
    assert (await hand.one()).attempts == 1


async def test_a_snooze_with_a_delay_costs_no_attempt(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    await hand.snooze(await hand.one(), delay=0.2)
    assert await queue.status("k") == "scheduled"
    assert (await hand.one()).attempts == 0


async def test_who_waits_is_told_of_the_end(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    waiting = [asyncio.create_task(queue.wait("k", 30)) for _ in range(5)]
    await hand.end(await hand.one(), result=7)
    assert [job.result for job in await asyncio.gather(*waiting) if job] == [7] * 5


async def test_waiting_for_a_job_that_has_ended_returns_at_once(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    for timeout in (None, 0, 5):
        job = await queue.wait("k", timeout)
        assert job is not None
        assert job.status is Status.COMPLETE


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_waiting_ends_in_time_and_leaves_the_job_alone(queue: TaskQueue, timeout: float) -> None:
    await enqueue(queue, "k")
    with pytest.raises(TimeoutError):
        await queue.wait("k", timeout)
    assert await queue.status("k") == "queued"


async def test_a_waiter_outlives_retries(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    waiting = asyncio.create_task(queue.wait("k", 30))
    await hand.retry(await hand.one())
    await hand.fail(await hand.one())
    job = await waiting
    assert job is not None
    assert job.status is Status.FAILED


@pytest.mark.parametrize("state", ["queued", "scheduled", "retrying"])
async def test_a_job_that_waits_is_aborted_at_once(queue: TaskQueue, state: str) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", delay=60 if state == "scheduled" else 0)
    if state == "retrying":
        await hand.retry(await hand.one(), delay=60)
    waiting = asyncio.create_task(queue.wait("k", 30))
    await asyncio.sleep(0)
    assert await queue.cancel("k", "no more")
    job = await waiting
    assert job is not None
    assert (job.status, job.error) == (Status.ABORTED, "no more")
    counts = await queue.counts()
    assert (counts["aborted"], counts["queued"], counts["scheduled"], counts["retrying"]) == (1, 0, 0, 0)
    assert not await queue.cancel("k", "again")


async def test_an_aborted_job_is_skipped_when_its_turn_comes(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcd")
    await queue.cancel("a", "no")
    await queue.cancel("c", "no")
    assert keys_of(await hand.take(2)) == ["b", "d"]


async def test_a_running_job_is_aborted_through_its_worker(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    job = await hand.one()
    assert await queue.cancel("k", "enough")

    async def told() -> bool:
        return hand.aborts == [("k", "enough")]

    await eventually(told)
    assert await queue.status("k") == "active"
    await hand.end(job, Settlement.ABORTED, error="enough")
    assert (await record(queue, "k")).status is Status.ABORTED


@needs("shared")
async def test_an_abort_reaches_the_worker_from_another_process(queue: TaskQueue, make: MakeQueue) -> None:
    hand = await Hand(await make()).open()
    await enqueue(queue, "k")
    await hand.one()
    assert await queue.cancel("k", "enough")

    async def told() -> bool:
        return hand.aborts == [("k", "enough")]

    await eventually(told)


@pytest.mark.parametrize("way", ["retry", "snooze", "hand_back"])
async def test_a_job_that_is_being_aborted_does_not_come_back(queue: TaskQueue, way: str) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    job = await hand.one()
    await queue.cancel("k", "enough")
    await getattr(hand, way)(job)
    assert ((await record(queue, "k")).status, (await record(queue, "k")).error) == (Status.ABORTED, "enough")
    assert await queue.count("incomplete") == 0


async def test_an_abort_that_comes_too_late_changes_nothing(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    assert not await queue.cancel("k", "late")
    assert not await queue.cancel("never", "late")
    assert (await record(queue, "k")).status is Status.COMPLETE


async def test_a_key_that_was_aborted_can_be_enqueued_again(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", "other")
    await queue.cancel("k", "no")
    await enqueue(queue, "k")
    assert sorted(keys_of(await hand.take(2))) == ["k", "other"]
    assert await queue.claim(5) == []
    assert await listed(queue, "aborted") == []


async def test_a_result_that_is_not_to_be_kept_is_not_listed_and_found_for_a_while(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", ttl=-1)
    await hand.end(await hand.one(), result=3)
    assert (await queue.counts())["complete"] == 0
    job = await queue.wait("k", 5)
    assert job is not None
    assert job.result == 3


async def test_a_record_for_ever_is_kept(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", ttl=0)
    await hand.end(await hand.one(), result=3)
    assert await listed(queue, "complete") == ["k"]


async def test_a_failure_is_kept_longer_than_its_ttl_says(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", ttl=-1)
    await hand.fail(await hand.one())
    assert await listed(queue, "failed") == ["k"]
    await stands(queue, "k", "failed")


async def test_saqs_listen_hears_of_ends(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    heard: list[tuple[str, Status]] = []

    def callback(key: str, status: Status) -> bool:
        heard.append((key, status))
        return status is Status.COMPLETE

    listening = asyncio.create_task(queue.listen(["k"], callback, timeout=30))
    await asyncio.sleep(0)
    await hand.end(await hand.one())
    await listening
    assert heard[-1] == ("k", Status.COMPLETE)


async def test_apply_returns_the_result(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    job = await hand.one()
    waiting = asyncio.create_task(queue.wait("k", None))
    await hand.end(job, result="r")
    ended = await waiting
    assert ended is not None
    assert ended.result == "r"
