"""What an operator does: re-run, delete, purge, pause, and all of it to many jobs; and the counters of the last day."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from saq.job import Status

from litestar_tasks import ConfigurationError
from litestar_tasks.queues.base import Settlement, TaskQueue
from litestar_tasks.queues.operations import BOUNDS, BulkAction, JobFilter, JobState, Minute, TaskMinute
from litestar_tasks.queues.reports import process_report
from tests.conformance.hands import (
    Hand,
    MakeQueue,
    act,
    enqueue,
    eventually,
    keys_of,
    listed,
    millis,
    needs,
    record,
    spec,
)

# Running a job again


@pytest.mark.parametrize("how", [Settlement.COMPLETE, Settlement.FAILED, Settlement.ABORTED, Settlement.QUARANTINED])
async def test_a_job_that_has_ended_gets_a_new_life(queue: TaskQueue, how: Settlement) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", kwargs={"i": 1}, max_attempts=3, meta={"tag": "t"})
    await hand.end(await hand.one(), how, result=1)
    assert await queue.rerun("k")
    assert await queue.status("k") == "queued"
    counts = await queue.counts()
    assert (counts["queued"], sum(counts.values())) == (1, 1)
    job = await hand.one()
    assert (job.kwargs, job.attempts, job.retries, job.result, job.error) == ({"i": 1}, 0, 3, None, None)
    assert (job.id, job.meta["tag"]) == (queue.job_id("k"), "t")
    await hand.end(job, result=2)
    assert (await record(queue, "k")).result == 2


async def test_a_new_life_keeps_the_history_of_the_old_one(queue: TaskQueue) -> None:
    hand = await Hand(queue).open("me")
    await enqueue(queue, "k")
    job = await hand.one()
    await hand.fail(job, "Traceback (most recent call last):\n  File …\nValueError: broken ü\n")
    await queue.rerun("k")
    (entry,) = (await record(queue, "k")).meta["history"]
    assert entry["outcome"] == "failed"
    assert entry["error"] == "ValueError: broken ü"
    assert entry["worker"] == "me"
    assert entry["started"] == job.started
    assert entry["completed"] >= entry["started"] > 0


async def test_the_last_ten_attempts_are_kept(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    for number in range(13):
        await hand.fail(await hand.one(), f"ValueError: {number}")
        assert await queue.rerun("k")
    history = (await record(queue, "k")).meta["history"]
    assert [entry["error"] for entry in history] == [f"ValueError: {number}" for number in range(3, 13)]


async def test_a_job_that_completes_at_once_has_no_history(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    assert "history" not in (await record(queue, "k")).meta


async def test_a_job_that_waits_or_runs_cannot_be_run_again(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "running")
    running = await hand.one()
    await enqueue(queue, "queued")
    await enqueue(queue, "scheduled", delay=60)
    for key in ("running", "queued", "scheduled", "never"):
        assert not await queue.rerun(key)
    assert await queue.count("incomplete") == 3
    assert await queue.status("scheduled") == "scheduled"
    assert await hand.end(running)


async def test_a_job_that_waits_for_its_next_attempt_is_started_at_once(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k")
    await hand.retry(await hand.one(), delay=100)
    assert await queue.rerun("k")
    assert (await queue.counts())["retrying"] == 0
    job = await hand.one()
    assert (job.key, job.attempts) == ("k", 1)


async def test_many_who_run_a_job_again_at_once_start_it_once(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    assert sum(await asyncio.gather(*(queue.rerun("k") for _ in range(10)))) == 1
    assert await queue.count("queued") == 1
    assert len((await record(queue, "k")).meta["history"]) == 1


async def test_saqs_retry_of_a_job_that_has_ended_is_a_new_life(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k", how=Settlement.FAILED)
    await (await record(queue, "k")).retry("again")
    job = await hand.one()
    assert (job.attempts, len(job.meta["history"])) == (0, 1)
    with pytest.raises(ValueError, match="has not ended"):
        await (await record(queue, "k")).retry("again")


async def test_who_waits_for_a_new_life_gets_its_result(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k", how=Settlement.FAILED)
    await queue.rerun("k")
    waiting = asyncio.create_task(queue.wait("k", 30))
    await hand.end(await hand.one(), result="new")
    job = await waiting
    assert job is not None
    assert (job.status, job.result) == (Status.COMPLETE, "new")


# Forgetting jobs


async def test_a_job_that_has_ended_can_be_deleted(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k", how=Settlement.QUARANTINED)
    assert await queue.delete("k")
    assert await queue.job("k") is None
    assert sum((await queue.counts()).values()) == 0
    assert not await queue.delete("k")


async def test_a_job_that_waits_or_runs_cannot_be_deleted(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "running")
    running = await hand.one()
    await enqueue(queue, "queued")
    await enqueue(queue, "scheduled", delay=60)
    for key in ("running", "queued", "scheduled"):
        assert not await queue.delete(key)
    assert await queue.count("incomplete") == 3
    assert await hand.end(running)


async def test_a_purge_forgets_all_that_waits_and_nothing_else(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("ended")
    await enqueue(queue, "running", "retrying")
    running, retrying = await hand.take(2)
    await hand.retry(retrying, delay=60)
    await enqueue(queue, *(f"k{number}" for number in range(450)))
    await enqueue(queue, "urgent", priority=-1)
    await enqueue(queue, "scheduled", delay=60)
    await queue.cancel("k7", "no")
    assert await queue.purge() == 452
    counts = await queue.counts()
    assert {state: count for state, count in counts.items() if count} == {"active": 1, "complete": 1, "aborted": 1}
    for key in ("k0", "urgent", "scheduled", "retrying"):
        assert await queue.job(key) is None
    assert await hand.end(running)
    await enqueue(queue, "k0")
    assert (await hand.one()).key == "k0"
    assert await queue.purge() == 0


async def test_who_waits_for_a_purged_job_is_told(queue: TaskQueue) -> None:
    await enqueue(queue, "k")
    waiting = asyncio.create_task(queue.wait("k", 60))
    await asyncio.sleep(0.01)
    await queue.purge()
    started = time.monotonic()
    assert await waiting is None
    assert time.monotonic() - started < 30


# Pausing


@needs("pause")
async def test_nothing_is_claimed_from_a_paused_queue(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "running")
    running = await hand.one()
    await queue.pause(by="ops")
    await enqueue(queue, "k")
    await enqueue(queue, "urgent", priority=-1)
    await enqueue(queue, "later", delay=0.01)
    assert await queue.claim(5) == []
    assert await hand.end(running, result=1)
    assert await queue.claim(5) == []
    assert sorted(await listed(queue, "queued")) == ["k", "later", "urgent"]
    await queue.resume()
    assert sorted(keys_of(await hand.take(3))) == ["k", "later", "urgent"]


@needs("pause")
async def test_a_pause_says_since_when_and_by_whom(queue: TaskQueue) -> None:
    assert await queue.paused() is None
    await queue.resume()
    before = datetime.now(UTC)
    await queue.pause(by="ünal")
    await queue.pause(by="another")
    pause = await queue.paused()
    assert pause is not None
    assert pause.by == "ünal"
    assert abs(pause.since - before) < timedelta(minutes=1)
    await queue.resume()
    assert await queue.paused() is None
    await queue.pause()
    pause = await queue.paused()
    assert pause is not None
    assert pause.by == ""


@needs("pause")
async def test_a_worker_that_sleeps_through_a_pause_wakes_at_its_end(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await queue.pause()
    await enqueue(queue, "urgent", priority=-1)
    waiting = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await queue.resume()
    assert keys_of(await waiting) == ["urgent"]


@needs("pause")
async def test_a_worker_that_waits_for_jobs_heeds_a_pause_at_once(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    waiting = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0.1)
    await queue.pause()
    await enqueue(queue, "k")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert await listed(queue, "queued") == ["k"]
    await queue.resume()
    assert keys_of(await waiting) == ["k"]


@needs("pause", "shared")
async def test_a_pause_holds_for_every_worker_and_outlives_them(queue: TaskQueue, make: MakeQueue) -> None:
    hands = [await Hand(await make()).open(f"w{number}") for number in range(2)]
    await queue.pause(by="ops")
    await enqueue(queue, "k")
    assert await asyncio.gather(*(hand.queue.claim(1) for hand in hands)) == [[], []]
    for hand in hands:
        await hand.queue.close()
    later = await Hand(await make()).open("later")
    assert await later.queue.claim(1) == []
    pause = await later.queue.paused()
    assert pause is not None
    assert pause.by == "ops"
    await queue.resume()
    assert keys_of(await later.take(1)) == ["k"]


@needs("pause")
async def test_a_paused_queue_aborts_lists_and_purges(queue: TaskQueue) -> None:
    await queue.pause()
    await enqueue(queue, *"abc")
    assert await queue.cancel("a", "no")
    assert sorted(await listed(queue, "queued")) == ["b", "c"]
    assert await queue.purge() == 2


# Many at once


@needs("bulk")
@pytest.mark.parametrize("state", ["complete", "failed", "aborted", "quarantined"])
async def test_ended_jobs_are_run_again_in_bounded_steps(queue: TaskQueue, state: JobState) -> None:
    hand = await Hand(queue).open()
    how = Settlement(state)
    await enqueue(queue, *(f"k{number}" for number in range(25)))
    for job in await hand.take(25):
        await hand.end(job, how)
    assert await act(queue, "retry", state, limit=10) == 25
    assert await queue.count("queued") == 25
    assert {job.attempts for job in await hand.take(25)} == {0}


@needs("bulk")
async def test_retrying_jobs_are_started_now(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abc")
    for job in await hand.take(3):
        await hand.retry(job, delay=100)
    await enqueue(queue, "scheduled", delay=100)
    assert await act(queue, "retry", "retrying") == 3
    assert await listed(queue, "scheduled") == ["scheduled"]
    assert sorted(keys_of(await hand.take(3))) == list("abc")


@needs("bulk")
async def test_waiting_jobs_are_aborted_together(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "retrying")
    await hand.retry(await hand.one(), delay=100)
    await enqueue(queue, *(f"k{number}" for number in range(30)))
    await enqueue(queue, *(f"s{number}" for number in range(5)), delay=60)
    assert await act(queue, "abort", "queued", limit=7) == 30
    assert await act(queue, "abort", "retrying") == 1
    assert await act(queue, "abort", "scheduled", limit=2) == 5
    counts = await queue.counts()
    assert (counts["aborted"], sum(counts.values())) == (36, 36)
    assert await queue.claim(1) == []


@needs("bulk")
async def test_running_jobs_are_aborted_through_their_worker(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abc")
    jobs = await hand.take(3)
    assert await act(queue, "abort", "active", limit=2) == 3

    async def told() -> bool:
        return sorted(key for key, _ in hand.aborts) == list("abc")

    await eventually(told)
    for job in jobs:
        await hand.hand_back(job)
    assert sorted(await listed(queue, "aborted")) == list("abc")


@needs("bulk")
async def test_ended_jobs_are_deleted_by_task_and_others_left(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for number in range(20):
        await enqueue(queue, f"k{number:02}", task="odd" if number % 2 else "even")
    for job in await hand.take(20):
        await hand.fail(job)
    step = await queue.bulk("delete", JobFilter(state="failed", task="odd"), limit=10)
    assert (step.done, step.skipped) == (5, 5)
    assert step.cursor is not None
    step = await queue.bulk("delete", JobFilter(state="failed", task="odd"), limit=10, cursor=step.cursor)
    assert (step.done, step.skipped) == (5, 5)
    assert await act(queue, "delete", "failed", task="odd") == 0
    assert {job.function for job in (await queue.page(JobFilter(state="failed"))).jobs} == {"even"}
    assert await queue.job("k01") is None


@needs("bulk")
@pytest.mark.parametrize("newest_first", [True, False])
async def test_an_operation_ends_though_its_jobs_fail_again(queue: TaskQueue, newest_first: bool) -> None:
    hand = await Hand(queue).open()
    await hand.finish(*"abcdef", how=Settlement.FAILED)
    which = JobFilter(state="failed", newest_first=newest_first)
    done, cursor = 0, None
    for _ in range(10):
        step = await queue.bulk("retry", which, limit=2, cursor=cursor)
        done += step.done
        for job in await hand.take(step.done):
            await hand.fail(job)
        if (cursor := step.cursor) is None:
            break
    assert (cursor, done) == (None, 6)
    assert (await queue.counts())["failed"] == 6


@needs("bulk")
async def test_an_operation_by_tag_and_time_means_these_jobs_alone(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "old", meta={"tag": "x"})
    await hand.fail(await hand.one())
    await asyncio.sleep(0.02)
    since = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await enqueue(queue, "new", meta={"tag": "x"})
    await enqueue(queue, "other", meta={"tag": "y"})
    for job in await hand.take(2):
        await hand.fail(job)
    assert await act(queue, "delete", "failed", tag="x", since=since) == 1
    assert sorted(await listed(queue, "failed")) == ["old", "other"]


@needs("bulk")
@pytest.mark.parametrize(
    ("action", "state"),
    [("retry", "queued"), ("retry", "active"), ("retry", "scheduled"), ("abort", "failed"), ("delete", "queued")],
)
async def test_an_action_that_a_state_leaves_no_room_for_is_refused(
    queue: TaskQueue, action: BulkAction, state: JobState
) -> None:
    with pytest.raises(ConfigurationError, match=action):
        await queue.bulk(action, JobFilter(state=state))


@needs("bulk")
async def test_a_step_on_nothing_is_the_last_one(queue: TaskQueue) -> None:
    step = await queue.bulk("retry", JobFilter(state="failed"))
    assert (step.done, step.skipped, step.cursor) == (0, 0, None)
    with pytest.raises(ConfigurationError, match="cursor"):
        await queue.bulk("retry", JobFilter(state="failed"), cursor="nonsense")


# Counters


def minute(start: datetime, task: str = "noop", **counts: Any) -> Minute:
    return Minute(start, {task: TaskMinute(**counts)})


def this_minute(ago: int = 0) -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=ago)


@needs("metrics")
async def test_counts_of_a_minute_add_up_by_task(queue: TaskQueue) -> None:
    start = this_minute(5)
    waited = [0] * (len(BOUNDS) + 1)
    waited[0], waited[-1] = 3, 1
    await queue.add_minutes([minute(start, complete=2, waited=waited), minute(start, "a:b", failed=1)])
    await queue.add_minutes([minute(start + timedelta(seconds=59), complete=1, aborted=4, retried=5, waited=waited)])
    (found,) = await queue.minutes(start, start)
    assert found.start == start
    assert set(found.tasks) == {"noop", "a:b"}
    noop = found.tasks["noop"]
    assert (noop.complete, noop.failed, noop.aborted, noop.retried) == (3, 0, 4, 5)
    assert (noop.waited[0], noop.waited[-1], sum(noop.waited), sum(noop.ran)) == (6, 2, 8, 0)
    assert found.tasks["a:b"].failed == 1


@needs("metrics")
async def test_minutes_come_oldest_first_within_their_span(queue: TaskQueue) -> None:
    for ago in (3, 30, 300):
        await queue.add_minutes([minute(this_minute(ago), complete=ago)])
    now = datetime.now(UTC)
    found = await queue.minutes(now - timedelta(days=2), now)
    assert [one.tasks["noop"].complete for one in found] == [300, 30, 3]
    found = await queue.minutes(this_minute(30) + timedelta(seconds=40), this_minute(3))
    assert [one.tasks["noop"].complete for one in found] == [30, 3]
    assert await queue.minutes(this_minute(2), now) == []
    assert await queue.minutes(now, this_minute(60)) == []


@needs("metrics")
async def test_minutes_are_added_up_by_the_clock(queue: TaskQueue) -> None:
    quarter = this_minute(120)
    quarter = quarter.replace(minute=quarter.minute // 15 * 15)
    for back, task in ((1, "a"), (0, "a"), (-1, "b"), (-14, "a"), (-15, "a")):
        ran = [0] * (len(BOUNDS) + 1)
        ran[3] = 1
        await queue.add_minutes([minute(quarter - timedelta(minutes=back), task, complete=1, ran=ran)])
    found = await queue.minutes(quarter - timedelta(minutes=20), datetime.now(UTC), every=15)
    counts = [{task: (one.complete, one.ran[3]) for task, one in part.tasks.items()} for part in found]
    assert counts == [{"a": (1, 1)}, {"a": (2, 2), "b": (1, 1)}, {"a": (1, 1)}]
    assert [part.start - quarter for part in found] == [timedelta(minutes=15 * at) for at in (-1, 0, 1)]
    (part,) = await queue.minutes(quarter + timedelta(minutes=1), quarter + timedelta(minutes=14), every=15)
    assert (part.start, part.tasks["a"].complete) == (quarter, 1), "what lies before the span is not in it"
    for wrong in (0, 1_441):
        with pytest.raises(ConfigurationError, match="every"):
            await queue.minutes(quarter, quarter, every=wrong)


@needs("metrics")
async def test_minutes_of_hundreds_of_tasks_are_read_in_several_steps(queue: TaskQueue) -> None:
    tasks = [f"task-{number}" for number in range(300)]
    buckets = [1] * (len(BOUNDS) + 1)
    counted = {task: TaskMinute(complete=2, waited=buckets, ran=buckets) for task in tasks}
    quarter = this_minute(120).replace(minute=0)
    await queue.add_minutes([Minute(quarter + timedelta(minutes=at), counted) for at in (0, 1, 15)])
    found = await queue.minutes(quarter, quarter + timedelta(minutes=29), every=15)
    for one, times in zip(found, (2, 1), strict=True):
        assert {task.complete for task in one.tasks.values()} == {2 * times}
        assert len(one.tasks) == 300
        assert {sum(task.ran) for task in one.tasks.values()} == {times * len(buckets)}


@needs("metrics")
async def test_minutes_are_kept_for_a_day(queue: TaskQueue) -> None:
    await queue.add_minutes([minute(this_minute(2 * 24 * 60), complete=1), minute(this_minute(23 * 60), complete=2)])
    now = datetime.now(UTC)
    found = await queue.minutes(now - timedelta(days=3), now)
    assert [one.tasks["noop"].complete for one in found] == [2]


@needs("metrics")
async def test_a_span_without_a_time_zone_is_refused(queue: TaskQueue) -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        await queue.minutes(datetime(2025, 1, 1), datetime.now(UTC))  # that is the point


@needs("metrics", "shared")
async def test_several_workers_add_to_the_same_minute(queue: TaskQueue, make: MakeQueue) -> None:
    start = this_minute(1)
    others = [await make() for _ in range(3)]
    await asyncio.gather(*(one.add_minutes([minute(start, complete=5)]) for one in others))
    (found,) = await queue.minutes(start, start)
    assert found.tasks["noop"].complete == 15


async def test_many_jobs_of_one_key_at_once_are_still_one(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k", how=Settlement.FAILED)
    submissions, reran = await asyncio.gather(queue.submit_many([spec("k"), spec("k")]), queue.rerun("k"))
    assert sum(not one.deduplicated for one in submissions) + reran == 1
    assert await queue.count("queued") == 1


# Workers


async def test_workers_are_known_by_what_they_said_last(make: MakeQueue) -> None:
    queue = await make("work")
    assert await queue.workers() == []
    said: Any = {"stats": {"complete": 3, "failed": 1}, "queue_key": "work", "metadata": {"zone": "b"}}
    moment = millis()
    said |= process_report(started=moment - 60_000, running=2, concurrency=10)
    await queue.write_worker_info("one", said, ttl=60)
    (one,) = await queue.workers()
    assert (one.id, one.queue, one.pid, one.running, one.concurrency) == ("one", queue.label, os.getpid(), 2, 10)
    assert (one.complete, one.failed, one.metadata, one.lost) == (3, 1, {"zone": "b"}, False)
    assert one.started == datetime.fromtimestamp((moment - 60_000) / 1000, UTC)
    assert list((await queue.info())["workers"]) == ["one"]


async def test_a_worker_that_fell_silent_is_lost_and_one_that_stopped_is_not(make: MakeQueue) -> None:
    queue = await make("work")
    silent: Any = process_report(started=millis(), running=0, concurrency=1)
    silent["process"]["seen"] = millis() - 90_000
    await queue.write_worker_info("silent", silent, ttl=60)
    stopped: Any = process_report(started=millis(), running=0, concurrency=1, stopped=True)
    await queue.write_worker_info("stopped", stopped, ttl=60)
    assert [(worker.id, worker.lost) for worker in await queue.workers()] == [("silent", True)]
    assert (await queue.info())["workers"] == {}


@needs("shared")
@pytest.mark.parametrize("hours", [2, -2])
async def test_a_worker_whose_clock_is_wrong_is_not_lost_nor_are_others(
    make: MakeQueue, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    queue = await make("work")
    right: Any = process_report(started=millis(), running=0, concurrency=1)
    await queue.write_worker_info("right", right, ttl=3_600)
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + hours * 3_600)
        wrong: Any = process_report(started=millis(), running=0, concurrency=1)
        await queue.write_worker_info("wrong", wrong, ttl=3_600)
        assert sorted(worker.id for worker in await queue.workers()) == ["right", "wrong"]
    assert sorted((worker.id, worker.lost) for worker in await queue.workers()) == [("right", False), ("wrong", False)]


@needs("shared")
async def test_a_worker_that_leaves_takes_no_other_one_with_it(make: MakeQueue) -> None:
    """Its last word is forgotten after a second, and health would say that no worker runs."""
    queue = await make("work")
    stays: Any = process_report(started=millis(), running=0, concurrency=1)
    await queue.write_worker_info("stays", stays, ttl=3_600)
    leaves: Any = process_report(started=millis(), running=0, concurrency=1, stopped=True)
    await queue.write_worker_info("leaves", leaves, ttl=1)
    deadline = time.monotonic() + 10
    while "leaves" in await queue.worker_infos():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert [worker.id for worker in await queue.workers()] == ["stays"]


async def test_what_a_worker_of_stock_saq_says_is_read_too(make: MakeQueue) -> None:
    queue = await make("work")
    await queue.worker_info("stock", "work")
    odd: Any = {"stats": "none", "process": {"pid": "x", "load": None}, "metadata": 3}
    await queue.write_worker_info("odd", odd, ttl=60)
    assert sorted((worker.id, worker.pid, worker.lost) for worker in await queue.workers()) == [
        ("odd", 0, False),
        ("stock", 0, False),
    ]
