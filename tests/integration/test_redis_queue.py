"""The queue on Redis, on every server that is installed: what producers, readers and workers can rely on."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import saq.queue.redis
from redis.exceptions import ConnectionError as RedisConnectionError
from saq.job import Job, Status

from litestar_tasks.exceptions import BrokerError, ConfigurationError, QueueUnavailableError
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import ClaimedJob, Settlement, WorkerHooks
from litestar_tasks.queues.redis import RedisQueue, cycles
from litestar_tasks.queues.redis.connection import Link
from tests.integration.conftest import Server, eventually

MakeQueue = Callable[..., RedisQueue]

SHORT: dict[str, Any] = {"lease": 1.2, "renew_every": 0.2}


class Hand:
    """The worker's part: claims what it is told to, and notes what it is called with."""

    def __init__(self, queue: RedisQueue) -> None:
        self.queue = queue
        self.aborts: list[tuple[str, str]] = []
        self.lost: list[str] = []

    async def open(self, name: str = "hand") -> Hand:
        await self.queue.open(
            name, WorkerHooks(abort=lambda key, reason: self.aborts.append((key, reason)), lost=self.lost.extend)
        )
        return self

    async def take(self, count: int, limit: int | None = None) -> list[ClaimedJob]:
        """Claim exactly so many, in as many claims as it takes."""
        jobs: list[ClaimedJob] = []
        async with asyncio.timeout(20):
            while len(jobs) < count:
                jobs += await self.queue.claim(min(limit or count, count - len(jobs)))
        return jobs

    async def complete(self, job: ClaimedJob, result: Any = None) -> bool:
        job.status, job.result, job.attempts = Status.COMPLETE, result, job.attempts + 1
        job.completed = int(time.time() * 1000)
        return await self.queue.settle(job, Settlement.COMPLETE)

    def vanish(self) -> None:
        """Die without a word, as SIGKILL would have it."""
        consumer: Any = self.queue._consumer
        consumer._lease.stop()
        consumer._recovery._task.cancel()
        for task in consumer._cycles._tasks:
            task.cancel()
        if consumer._cycles._nap is not None:
            consumer._cycles._nap.cancel()
        self.queue._announcements._listeners.clear()


def spec(number: int = 0, **options: Any) -> JobSpec:
    return JobSpec(task="noop", kwargs={"i": number}, **options)


def keys(jobs: list[ClaimedJob]) -> list[str]:
    return [job.key for job in jobs]


@pytest.fixture
async def hand(redis_url: str, make_queue: MakeQueue) -> Hand:
    return await Hand(make_queue(redis_url)).open()


@pytest.fixture
def app(redis_url: str, make_queue: MakeQueue) -> RedisQueue:
    """The queue as a web process has it."""
    return make_queue(redis_url)


# Enqueueing


async def test_a_job_is_stored_claimed_and_settled(app: RedisQueue, hand: Hand) -> None:
    submission = await app.submit(spec(7, key="k", timeout=2.5, max_attempts=3, meta={"tag": "t"}))
    assert not submission.deduplicated
    assert await app.status("k") == "queued"
    (job,) = await hand.take(1)
    assert (job.function, job.kwargs, job.timeout, job.retries, job.meta) == ("noop", {"i": 7}, 2.5, 3, {"tag": "t"})
    assert (job.status, job.worker_id, job.id) == (Status.ACTIVE, "hand", "saq:job:default:k")
    assert abs(job.started / 1000 - time.time()) < 60
    assert await app.status("k") == "active"
    assert await hand.complete(job, {"r": [1.5, None]})
    stored = await app.job("k")
    assert stored is not None
    assert (stored.status, stored.result, stored.attempts) == (Status.COMPLETE, {"r": [1.5, None]}, 1)
    assert await app.status("k") == "complete"
    assert await app.status("never") is None


async def test_the_job_that_an_enqueue_returns_can_be_updated_in_fields_that_it_had_not_set(app: RedisQueue) -> None:
    job = (await app.submit(spec(key="k"))).job
    assert (job.progress, job.error, job.attempts, job.meta) == (0.0, None, 0, {})
    await job.update(progress=0.5, unknown=1)
    assert job.progress == 0.5
    stored = await app.job("k")
    assert stored is not None
    assert (stored.progress, stored.error, stored.status) == (0.5, None, Status.QUEUED)


async def test_a_second_enqueue_of_a_key_returns_the_job_that_is_there(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(1, key="k"))
    again = await app.submit(spec(2, key="k"))
    assert again.deduplicated
    assert again.job.kwargs == {"i": 1}
    (job,) = await hand.take(1)
    assert (await app.submit(spec(3, key="k"))).deduplicated
    await hand.complete(job)
    assert (await app.submit(spec(4, key="k", once=True))).job.status is Status.COMPLETE
    assert not (await app.submit(spec(5, key="k"))).deduplicated


async def test_many_are_stored_in_order_and_with_few_round_trips(app: RedisQueue, hand: Hand, server: Server) -> None:
    server.client.config_resetstat()
    submissions = await app.submit_many([spec(n, key=f"k{n}") for n in (*range(1000), 5)])
    assert [submission.deduplicated for submission in submissions] == [False] * 1000 + [True]
    statistics: dict[str, Any] = server.client.info("commandstats")
    calls = statistics["cmdstat_evalsha"]["calls"] + statistics.get("cmdstat_eval", {"calls": 0})["calls"]
    assert calls <= 12
    waiting = server.client.lrange("saq:default:queued", 0, -1)
    assert waiting == [f"saq:job:default:k{n}".encode() for n in range(1000)]
    assert set(keys(await hand.take(1000, 100))) == {f"k{n}" for n in range(1000)}


async def test_enqueues_of_one_moment_share_round_trips(app: RedisQueue, server: Server) -> None:
    await app.submit(spec())
    server.client.config_resetstat()
    await asyncio.gather(*(app.submit(spec(n)) for n in range(400)))
    statistics: dict[str, Any] = server.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["calls"] <= 8
    assert await app.count("queued") == 401


async def test_a_single_enqueue_is_one_round_trip(app: RedisQueue, server: Server) -> None:
    await app.submit(spec())
    server.client.config_resetstat()
    await app.submit(spec())
    statistics: dict[str, Any] = server.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["calls"] == 1


@pytest.mark.parametrize("name", ["a.b", "a:b", "a b", "ä", "a*", "{a}", ""])
def test_names_that_would_break_keys_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="characters"):
        RedisQueue.from_url("redis://nowhere", label=name)


async def test_namespaces_keep_queues_of_one_label_apart(redis_url: str, make_queue: MakeQueue) -> None:
    one, other = make_queue(redis_url, namespace="one"), make_queue(redis_url, namespace="other")
    assert (one.name, one.label) == ("one.default", "default")
    await one.submit(spec(key="k"))
    assert await other.job("k") is None
    assert await other.count("incomplete") == 0


async def test_a_lease_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least four times"):
        RedisQueue.from_url("redis://nowhere", lease=5, renew_every=3)


# Claiming


async def test_no_more_is_claimed_than_there_is_capacity_for(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(n) for n in range(200)])
    held = await hand.queue.claim(7)
    assert len(held) == 7
    assert await app.count("active") == 7
    peak = 0

    async def run(job: ClaimedJob) -> None:
        await asyncio.sleep(random.random() / 200)
        await hand.complete(job)
        running.discard(job)

    running = set(held)
    tasks = [asyncio.create_task(run(job)) for job in held]
    while len(tasks) < 200:
        jobs = await hand.queue.claim(7 - len(running))
        running |= set(jobs)
        tasks += [asyncio.create_task(run(job)) for job in jobs]
        peak = max(peak, await app.count("active"))
    await asyncio.gather(*tasks)
    assert peak <= 7
    assert await app.count("incomplete") == 0


async def test_capacity_that_settles_free_is_claimed_for_in_the_same_call(
    app: RedisQueue, hand: Hand, server: Server
) -> None:
    await app.submit_many([spec(n) for n in range(40)])
    jobs = await hand.take(8)
    server.client.config_resetstat()
    waiting = asyncio.create_task(hand.queue.claim(0))
    await asyncio.gather(*(hand.complete(job) for job in jobs))
    more = await waiting
    assert len(more) == 8
    statistics: dict[str, Any] = server.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["calls"] == 1
    assert await app.count("active") == 8


async def test_the_room_of_settled_jobs_is_filled_by_the_same_call_for_who_asks_again_soon(
    app: RedisQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "_UNCLAIMED", 60.0)
    await app.submit_many([spec(n) for n in range(64)])
    consumer: Any = hand.queue._consumer
    carrier = consumer._cycles
    calls: list[tuple[int, int]] = []
    original = carrier._send

    async def send(link: Any, incarnation: Any, flight: Any) -> Any:
        calls.append((len(flight.operations), flight.want))
        return await original(link, incarnation, flight)

    monkeypatch.setattr(carrier, "_send", send)
    jobs = await hand.queue.claim(32, ahead=True)
    while len(jobs) < 32:
        jobs += await hand.queue.claim(32 - len(jobs), ahead=True)
    calls.clear()
    await asyncio.gather(*(hand.complete(job) for job in jobs))
    assert calls == [(16, 16), (16, 16)]
    assert await app.count("active") == 32
    jobs = await hand.queue.claim(32, ahead=True)
    assert len(jobs) == 32

    monkeypatch.setattr(cycles, "_UNCLAIMED", 0.0)
    await app.submit_many([spec(n) for n in range(40)])
    await asyncio.gather(*(hand.complete(job) for job in jobs))
    assert await app.count("active") == 0
    assert await app.count("queued") == 40


async def test_a_caller_without_room_does_not_spin_on_what_was_claimed_for_others(app: RedisQueue, hand: Hand) -> None:
    """A claim for nothing has to let the event loop turn, or hand out what is there."""
    await app.submit_many([spec(n) for n in range(32)])
    held = list(await hand.queue.claim(16))
    while len(held) < 16:
        held += await hand.queue.claim(16 - len(held))
    ends = [asyncio.create_task(hand.complete(job)) for job in held]
    left = 32 - len(held)
    while left:
        jobs = await hand.queue.claim(0)
        left -= len(jobs)
        ends += [asyncio.create_task(hand.complete(job)) for job in jobs]
    assert all(await asyncio.gather(*ends))
    assert await app.count("incomplete") == 0


async def test_a_full_worker_is_answered_too_and_claims_nothing(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec())
    assert await hand.queue.claim(0) == []
    assert await app.count("queued") == 1


async def test_concurrent_dequeues_share_their_claims(
    app: RedisQueue, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    queue = make_queue(redis_url)
    assert await queue.dequeue(timeout=0.05) is None
    waiting = [asyncio.create_task(queue.dequeue()) for _ in range(20)]
    await app.submit_many([spec(n, key=f"k{n}") for n in range(20)])
    jobs = await asyncio.gather(*waiting)
    assert {job.key for job in jobs if job} == {f"k{n}" for n in range(20)}
    for job in jobs:
        assert job is not None
        await job.finish(Status.COMPLETE, result=1)
    assert await app.count("incomplete") == 0


async def test_a_dequeue_that_is_given_up_loses_nothing(app: RedisQueue, redis_url: str, make_queue: MakeQueue) -> None:
    queue = make_queue(redis_url)
    await queue.dequeue(timeout=0.01)
    done = 0
    for number in range(30):
        waiting = asyncio.create_task(queue.dequeue())
        await asyncio.sleep(random.random() / 500)
        await app.submit(spec(number))
        await asyncio.sleep(random.random() / 1000)
        waiting.cancel()
        (job,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(job, Job):
            await job.finish(Status.COMPLETE)
            done += 1
    while done < 30:
        job = await queue.dequeue(timeout=5)
        assert isinstance(job, Job)
        await job.finish(Status.COMPLETE)
        done += 1
    assert await app.count("incomplete") == 0


@pytest.mark.alone
async def test_an_idle_worker_wakes_at_once_and_asks_little(app: RedisQueue, hand: Hand, server: Server) -> None:
    async def idle() -> None:
        while not (jobs := await hand.queue.claim(10)):
            pass
        claimed.extend(jobs)

    claimed: list[ClaimedJob] = []
    waiting = asyncio.create_task(idle())
    await asyncio.sleep(0.1)
    before: Any = server.client.info("stats")["total_commands_processed"]
    await asyncio.sleep(2)
    after: Any = server.client.info("stats")["total_commands_processed"]
    assert after - before < 60
    await app.submit(spec())
    start = time.monotonic()
    await waiting
    assert time.monotonic() - start < 0.5
    assert len(claimed) == 1


async def test_claiming_while_nothing_comes_returns_after_about_a_second(hand: Hand) -> None:
    start = time.monotonic()
    assert await hand.queue.claim(5) == []
    assert await hand.queue.claim(5) == []
    assert 1.5 < time.monotonic() - start < 4


@pytest.mark.alone
@pytest.mark.parametrize("options", [{"priority": -5}, {"priority": 5}, {"delay": 0.15}])
async def test_a_sleeping_worker_is_woken_for_other_lanes_and_for_what_is_due_soon(
    app: RedisQueue, hand: Hand, options: dict[str, Any]
) -> None:
    assert await hand.queue.claim(1) == []
    waiting = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0.05)
    start = time.monotonic()
    delay = options.pop("delay", 0)
    job = Job("noop", scheduled=time.time() + delay if delay else 0, **options)
    await app.enqueue(job)
    await waiting
    assert delay - 0.005 <= time.monotonic() - start < 0.6


async def test_claims_are_by_priority_and_then_first_come_first_served(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(key=f"{priority}:{n}", priority=priority) for n in range(3) for priority in (0, 5, -5)])
    expected = [f"{priority}:{n}" for priority in (-5, 0, 5) for n in range(3)]
    jobs = await hand.take(9, 2)
    assert keys(jobs) == expected
    for job in jobs:
        await hand.queue.settle(job, Settlement.RETRY)
    assert keys(await hand.take(9, 4)) == expected


async def test_a_cancelled_claim_hands_back_what_it_had_claimed(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(10)])
    waiting = asyncio.create_task(hand.queue.claim(10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: _is(app.count("queued"), 10))
    assert keys(await hand.take(10)) == [f"k{n}" for n in range(10)]


async def _is(awaitable: Any, value: Any) -> bool:
    return bool(await awaitable == value)


async def test_a_paused_queue_keeps_its_jobs_and_the_worker_its_calm(
    app: RedisQueue, hand: Hand, server: Server
) -> None:
    await app.submit(spec())
    server.client.set("saq:default:paused", "me")
    before: Any = server.client.info("stats")["total_commands_processed"]
    assert await hand.queue.claim(5) == []
    assert await hand.queue.claim(5) == []
    after: Any = server.client.info("stats")["total_commands_processed"]
    assert after - before < 60
    server.client.delete("saq:default:paused")
    assert len(await hand.take(1)) == 1


async def test_a_queue_object_serves_one_worker(hand: Hand) -> None:
    with pytest.raises(RuntimeError, match="open already"):
        await hand.open()
    await hand.queue.close()
    with pytest.raises(RuntimeError, match="not open"):
        await hand.queue.claim(1)
    await hand.open()
    assert await hand.queue.claim(0) == []


async def test_a_worker_takes_a_new_incarnation_before_its_tokens_run_out(
    app: RedisQueue, hand: Hand, server: Server
) -> None:
    await app.submit_many([spec(n) for n in range(3)])
    (old,) = await hand.take(1)
    consumer: Any = hand.queue._consumer
    first = consumer.holder
    first._next = (first.number + 1) << 27
    (new,) = await hand.take(1)
    assert old.token >> 27 == first.number
    assert new.token >> 27 > first.number
    assert len(server.client.zrange("saq:default:leases", 0, -1)) == 2
    assert consumer._lease._cursors.keys() >= {first.holder}
    assert await hand.complete(old)
    assert await hand.complete(new)
    assert first.holder not in consumer._lease._cursors


# Settling


async def test_a_settle_under_a_foreign_token_is_refused(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(key="k"))
    (job,) = await hand.take(1)
    forged = copy.copy(job)
    forged.token += 1
    assert not await hand.complete(forged)
    assert await app.status("k") == "active"
    assert await hand.complete(job)
    assert not await hand.complete(job)


@pytest.mark.alone
async def test_a_retry_waits_for_its_delay_and_joins_the_tail(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(key="a"), spec(key="b")])
    (job,) = await hand.take(1)
    job.attempts, job.error = 1, "boom"
    start = time.monotonic()
    assert await hand.queue.settle(job, Settlement.RETRY, delay=0.3)
    assert await app.status("a") == "scheduled"
    assert keys(await hand.take(1)) == ["b"]
    (again,) = await hand.take(1)
    assert (again.key, again.attempts, again.error) == ("a", 1, "boom")
    assert 0.295 <= time.monotonic() - start < 1.2
    assert await hand.queue.settle(again, Settlement.SNOOZE)
    assert await app.status("a") == "queued"


async def test_what_is_handed_back_is_claimed_next_in_its_order(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(30)])
    jobs = await hand.take(20)
    random.shuffle(jobs)
    await asyncio.gather(*(hand.queue.settle(job, Settlement.HAND_BACK) for job in jobs[:3]))
    assert await app.status(jobs[0].key) == "queued"
    stored = await app.job(jobs[0].key)
    assert stored is not None
    assert (stored.status, stored.started, stored.worker_id, stored.attempts) == (Status.QUEUED, 0, None, 0)
    await hand.queue.close()
    await hand.open()
    claimed = keys(await hand.take(30))
    assert claimed[20:] == [f"k{n}" for n in range(20, 30)]
    assert set(claimed[:20]) == {f"k{n}" for n in range(20)}


async def test_records_are_kept_as_long_as_the_job_says(app: RedisQueue, hand: Hand, server: Server) -> None:
    await app.submit_many(
        [spec(key="day"), spec(key="ever", ttl=0), spec(key="none", ttl=-1), spec(key="bad", ttl=600)]
    )
    day, ever, none, bad = await hand.take(4)
    for job in (day, ever, none):
        await hand.complete(job)
    bad.status, bad.error = Status.FAILED, "boom"
    await hand.queue.settle(bad, Settlement.FAILED)
    ttl = {key: server.client.ttl(f"saq:job:default:{key}") for key in ("day", "ever", "none", "bad")}
    assert 86_300 < ttl["day"] <= 86_400
    assert ttl["ever"] == -1
    assert 0 < ttl["none"] <= 60
    assert 7 * 86_400 - 100 < ttl["bad"] <= 7 * 86_400
    assert server.client.zrange("saq:default:complete", 0, -1) == [b"saq:job:default:day", b"saq:job:default:ever"]
    assert server.client.zrange("saq:default:failed", 0, -1) == [b"saq:job:default:bad"]


async def test_progress_and_meta_are_written_while_a_job_runs_and_never_after(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(key="k"))
    (job,) = await hand.take(1)
    await asyncio.gather(*(job.update(progress=n / 10, meta={"step": n}) for n in range(10)))
    stored = await app.job("k")
    assert stored is not None
    assert (stored.progress, stored.meta, stored.status) == (0.9, {"step": 9}, Status.ACTIVE)
    seen = await app.job("k")
    assert seen is not None
    await seen.update(meta={"by": "a stranger"})
    assert await hand.complete(job, "done")
    before = await app.redis.get(job.id)
    await job.update(progress=0.1)
    await seen.update(progress=0.2)
    assert await app.redis.get(job.id) == before


async def test_an_update_of_a_waiting_job_does_not_disturb_it(app: RedisQueue, hand: Hand) -> None:
    job = await app.enqueue(Job("noop", key="k", kwargs={"a": 1}))
    await job.update(meta={"x": 1})
    (claimed,) = await hand.take(1)
    assert (claimed.meta, claimed.kwargs) == ({"x": 1}, {"a": 1})


async def test_a_script_that_refuses_a_batch_for_one_operation_still_writes_the_others(
    app: RedisQueue, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(5)])
    jobs = await hand.take(5)
    consumer: Any = hand.queue._consumer
    original = consumer._settlement

    def spoil(job: ClaimedJob, *args: Any, **kwargs: Any) -> Any:
        operation = original(job, *args, **kwargs)
        if job.key == "k2":
            operation.number = "soon"
        return operation

    consumer._settlement = spoil
    assert await asyncio.gather(*(hand.complete(job) for job in jobs)) == [True, True, False, True, True]
    assert "k2 cannot be written" in caplog.text


# Waiting


@pytest.mark.alone
async def test_a_waiter_is_woken_by_the_end_of_the_job(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(key="k"))
    waiting = asyncio.create_task(app.wait("k", 10))
    (job,) = await hand.take(1)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await hand.complete(job, 42)
    start = time.monotonic()
    ended = await waiting
    assert time.monotonic() - start < 1
    assert ended is not None
    assert ended.result == 42
    assert (await app.wait("k", 0)) == ended
    assert app._announcements.channels == 0


async def test_a_waiter_for_what_never_was_is_told_so(app: RedisQueue) -> None:
    assert await app.wait("never", None) is None
    assert await app.wait("never", 0) is None


async def test_a_waiter_listens_to_its_own_job_alone(
    app: RedisQueue, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    """Neither to other jobs of the queue, nor to those of a queue whose name begins like its own."""
    namesake = make_queue(redis_url, label="default2")
    await app.submit(spec(key="k"))
    waiting = asyncio.create_task(app.wait("k", 20))
    channels: Any = server.client.pubsub_channels
    await eventually(lambda: channels() == [b"saq:job:default:k"])
    for queue in (app, namesake):
        for number in range(300):
            await queue.submit(spec(number, key=f"other{number}"))
            await queue.cancel(f"other{number}", "not wanted")
    assert channels() == [b"saq:job:default:k"]
    assert server.client.pubsub_numpat() == 0
    assert app._announcements.channels == 1
    assert await app.cancel("k", "not wanted")
    assert (ended := await waiting) is not None
    assert ended.error == "not wanted"


async def test_a_wait_ends_with_its_time(app: RedisQueue) -> None:
    await app.submit(spec(key="k"))
    for timeout in (0, 0.2):
        with pytest.raises(TimeoutError, match=r"'saq:job:default:k' had not ended after"):
            await app.wait("k", timeout)
    assert app._announcements.channels == 0


async def test_no_wake_up_is_lost_among_thousands_of_fast_jobs(app: RedisQueue, hand: Hand) -> None:
    total = 5000

    async def work() -> None:
        left, running = total, 0

        async def run(job: ClaimedJob) -> None:
            nonlocal left, running
            await hand.complete(job, job.kwargs["i"] if job.kwargs else None)
            left, running = left - 1, running - 1

        tasks: set[asyncio.Task[None]] = set()
        while left:
            for job in await hand.queue.claim(32 - running):
                running += 1
                tasks.add(asyncio.create_task(run(job)))
        await asyncio.gather(*tasks)

    async def call(number: int) -> None:
        job = (await app.submit(spec(number))).job
        ended = await app.wait(job.key, 60)
        assert ended is not None
        assert ended.result == number

    async def caller(numbers: range) -> None:
        for number in numbers:
            await call(number)

    working = asyncio.create_task(work())
    start = time.monotonic()
    await asyncio.gather(*(caller(range(n, total, 100)) for n in range(100)))
    await working
    assert time.monotonic() - start < 60
    assert app._announcements.channels == 0
    assert not app._announcements._confirmed


async def test_a_waiter_looks_by_itself_when_the_message_is_lost(
    app: RedisQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litestar_tasks.queues.served._POLL", 0.3)
    await app.submit(spec(key="k"))
    waiting = asyncio.create_task(app.wait("k", 10))
    (job,) = await hand.take(1)
    await eventually(lambda: bool(app._announcements._confirmed))
    app._announcements._listeners = {name: [] for name in app._announcements._listeners}  # nobody is told
    await hand.complete(job)
    assert (await waiting) is not None


async def test_waiters_survive_the_loss_of_their_connection(app: RedisQueue, hand: Hand, server: Server) -> None:
    await app.submit(spec(key="k"))
    waiting = asyncio.create_task(app.wait("k", 10))
    (job,) = await hand.take(1)
    await eventually(lambda: bool(app._announcements._confirmed))
    server.client.client_kill_filter(_type="pubsub")
    await hand.complete(job)
    assert (await waiting) is not None


async def test_a_queue_that_is_disconnected_as_a_wait_ends_leaves_no_connection_behind(
    app: RedisQueue, hand: Hand, server: Server, redis_url: str, make_queue: MakeQueue
) -> None:
    def clients() -> set[str]:
        return {client["id"] for client in server.client.client_list()}

    job = await app.enqueue(Job("f", key="k"))
    (claimed,) = await hand.take(1)
    await hand.complete(claimed)
    reader = make_queue(redis_url)
    gc.disable()  # which would close what is forgotten
    try:
        before = clients()
        assert await reader.wait(job.key, 10) is not None
        await reader.disconnect()
        await eventually(lambda: clients() <= before)
    finally:
        gc.enable()


async def test_apply_returns_the_result(app: RedisQueue, hand: Hand) -> None:
    async def work() -> None:
        (job,) = await hand.take(1)
        await hand.complete(job, job.kwargs)

    working = asyncio.create_task(work())
    job = await app.enqueue(Job("noop", kwargs={"a": 1}))
    await job.refresh(until_complete=5)
    await working
    assert job.result == {"a": 1}


# Aborting


async def test_waiting_and_scheduled_jobs_are_aborted_at_once(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(key="a"), spec(key="b", priority=3), spec(key="c")])
    await app.enqueue(Job("noop", key="later", scheduled=int(time.time()) + 600))
    waiting = asyncio.create_task(app.wait("b", 10))
    await eventually(lambda: bool(app._announcements._confirmed))
    assert [await app.cancel(key, "no more") for key in ("a", "b", "later", "a", "never")] == [True] * 3 + [False] * 2
    ended = await waiting
    assert ended is not None
    assert (ended.status, ended.error) == (Status.ABORTED, "no more")
    assert await app.status("later") == "aborted"
    assert keys(await hand.take(1)) == ["c"]


@pytest.mark.alone
async def test_a_running_job_is_aborted_through_its_worker_at_once(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(key="k"))
    (job,) = await hand.take(1)
    start = time.monotonic()
    assert await app.cancel("k", "enough")
    await eventually(lambda: bool(hand.aborts), within=1)
    assert time.monotonic() - start < 0.2
    assert await app.cancel("k", "again")
    job.status, job.error = Status.ABORTED, hand.aborts[0][1]
    assert await hand.queue.settle(job, Settlement.ABORTED)
    assert hand.aborts == [("k", "enough")]
    assert not await app.cancel("k", "too late")
    stored = await app.job("k")
    assert stored is not None
    assert (stored.status, stored.error) == (Status.ABORTED, "enough")


async def test_an_abort_arrives_also_when_its_message_is_lost(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    hand = await Hand(make_queue(redis_url, **SHORT)).open()
    await hand.queue.submit(spec(key="k"))
    await hand.take(1)
    server.client.hset("saq:default:aborts", "saq:job:default:k", '"quietly"')
    await eventually(lambda: hand.aborts == [("k", "quietly")], within=2)


async def test_an_abort_that_comes_too_late_changes_nothing(app: RedisQueue, hand: Hand) -> None:
    await app.submit(spec(key="k"))
    (job,) = await hand.take(1)
    settled, aborted = await asyncio.gather(hand.complete(job, 1), app.cancel("k", "late"))
    assert settled
    stored = await app.job("k")
    assert stored is not None
    assert (stored.status, stored.result) == (Status.COMPLETE, 1)
    assert not await app.cancel("k", "later still")
    await stored.abort("even so")
    assert (await app.job("k")) == stored
    assert aborted in (True, False)


async def test_aborting_costs_the_same_in_a_long_queue(app: RedisQueue, server: Server) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(20_000)])
    await app.cancel("k0", "warm")
    server.client.config_resetstat()
    for number in range(10_000, 10_020):
        await app.cancel(f"k{number}", "no")
    statistics: dict[str, Any] = server.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["usec_per_call"] < 1000
    assert await app.count("queued") == 20_000 - 21


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # SAQ's, under redis-py 8
async def test_a_stock_abort_of_a_running_job_ends_as_aborted(redis_url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(redis_url, **SHORT)).open()
    await hand.queue.submit(spec(key="k"))
    (job,) = await hand.take(1)
    stock = saq.queue.redis.RedisQueue.from_url(redis_url)
    seen = await stock.job("k")
    assert seen is not None
    await seen.abort("by a stock tool")
    await eventually(lambda: hand.aborts == [("k", "by a stock tool")], within=3)
    job.status, job.error = Status.ABORTED, "by a stock tool"
    assert await hand.queue.settle(job, Settlement.ABORTED)
    assert (await stock.job("k")).status is Status.ABORTED  # type: ignore[union-attr]
    await stock.disconnect()


# Strangers


async def test_a_stock_producer_and_a_stock_reader_work_with_our_consumer(redis_url: str, hand: Hand) -> None:
    stock = saq.queue.redis.RedisQueue.from_url(redis_url)
    job = await stock.enqueue("noop", a=1, b=[1.5, "é", None], timeout=33, key="k", meta={"m": 1})
    later = await stock.enqueue("noop", key="later", scheduled=int(time.time()) + 600)
    assert job is not None
    assert later is not None
    refreshed = asyncio.create_task(job.refresh(until_complete=10))
    (claimed,) = await hand.take(1)
    assert (claimed.kwargs, claimed.timeout, claimed.meta) == ({"a": 1, "b": [1.5, "é", None]}, 33, {"m": 1})
    assert await stock.enqueue("noop", key="k") is None
    running = await stock.job("k")
    assert running is not None
    assert (running.status, running.worker_id) == (Status.ACTIVE, "hand")
    await hand.complete(claimed, {"ok": True})
    await refreshed
    assert (job.status, job.result, job.attempts) == (Status.COMPLETE, {"ok": True}, 1)
    assert await stock.sweep() == []
    assert await hand.queue.info() == {
        "workers": {},
        "name": "default",
        "queued": 0,
        "active": 0,
        "scheduled": 1,
        "jobs": [],
    }
    await stock.disconnect()


async def test_nothing_that_is_stored_stops_the_queue(
    app: RedisQueue, hand: Hand, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    good: dict[str, Any] = {"function": "noop", "queue": "default", "status": "queued"}
    garbage: dict[str, bytes] = {
        "empty": b"",
        "binary": b"\xff\xfe\x00",
        "cut": b'{"function":"noop","queue":"default"',
        "list": b"[1,2]",
        "number": b"1",
        "object": b"{}",
        "newer": json.dumps({**good, "key": "newer", "shiny": 1}).encode(),
        "other-queue": json.dumps({**good, "key": "other-queue", "queue": "emails"}).encode(),
        "other-key": json.dumps({**good, "key": "good-0"}).encode(),
        "typed": json.dumps({**good, "key": "typed", "kwargs": [1]}).encode(),
        "number-type": json.dumps({**good, "key": "number-type", "timeout": "30s"}).encode(),
        "status": json.dumps({**good, "key": "status", "status": "dreaming"}).encode(),
        "deep": b"[" * 100_000,
        "no-function": json.dumps({"queue": "default", "key": "no-function"}).encode(),
    }
    for number, (key, data) in enumerate(garbage.items()):
        await app.submit(spec(key=key))
        server.client.set(f"saq:job:default:{key}", data)
        await app.submit(spec(key=f"good-{number}"))
    jobs = await hand.take(len(garbage))
    assert keys(jobs) == [f"good-{number}" for number in range(len(garbage))]
    await eventually(lambda: server.client.zcard("saq:default:quarantined") == len(garbage), within=3)
    assert all([await hand.complete(job) for job in jobs])
    for key in garbage:
        record = await app.job(key)
        assert record is not None
        assert record.status is Status.FAILED
        assert (record.error or "").startswith("undecodable: ")
        assert caplog.text.count(f"saq:job:default:{key} is put aside") == 1
    assert await app.count("incomplete") == 0
    assert (await app.job("newer")).meta["document"] == garbage["newer"].decode()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**70, -(2**63) - 1, 0.1 + 0.2, 1.0, "\ud800", "\u2028é\x00", [], {}, None, True],
)
async def test_arguments_and_results_come_back_as_they_were(app: RedisQueue, hand: Hand, value: Any) -> None:
    await app.enqueue(Job("noop", key="k", kwargs={"x": value}))
    (job,) = await hand.take(1)
    assert job.kwargs is not None
    assert repr(job.kwargs["x"]) == repr(value)
    await job.update(progress=0.5)
    await hand.complete(job, [value])
    stored = await app.job("k")
    assert stored is not None
    assert repr((stored.kwargs, stored.result)) == repr(({"x": value}, [value]))


# Looking


async def test_counts_and_jobs_are_told_by_their_state(app: RedisQueue, hand: Hand) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(5)])
    await app.enqueue(Job("noop", key="later", scheduled=int(time.time()) + 600))
    one, two = await hand.take(2)
    await app.cancel("k4", "no")
    await hand.complete(one)
    info = await app.info(jobs=True)
    assert (info["queued"], info["active"], info["scheduled"]) == (2, 1, 1)
    assert [job["key"] for job in info["jobs"]] == ["k1", "k2", "k3", "later"]
    assert [await app.count(kind) for kind in ("queued", "active", "incomplete")] == [2, 1, 4]
    found = {job.key: job.status async for job in app.iter_jobs()}
    assert found == {
        "k0": Status.COMPLETE,
        "k1": Status.ACTIVE,
        "k2": Status.QUEUED,
        "k3": Status.QUEUED,
        "k4": Status.ABORTED,
        "later": Status.QUEUED,
    }
    assert [job.key async for job in app.iter_jobs([Status.ACTIVE])] == [two.key]
    assert await app.status("later") == "scheduled"
    assert [job and job.key for job in await app.jobs(["k1", "none", "k4"])] == ["k1", None, "k4"]


async def test_workers_that_report_are_listed(app: RedisQueue, hand: Hand) -> None:
    await hand.queue.worker_info("hand", queue_key="default", metadata={"host": "h"})
    info = await app.info()
    assert info["workers"]["hand"]["metadata"] == {"host": "h"}


# Losing workers


async def test_the_jobs_of_a_lost_worker_go_on_elsewhere_at_the_head(
    redis_url: str, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    first = await Hand(make_queue(redis_url, **SHORT)).open("first")
    await first.queue.submit_many([spec(n, key=f"k{n}") for n in range(10)])
    held = await first.take(4)
    second = await Hand(make_queue(redis_url, **SHORT)).open("second")
    await eventually(lambda: _is(second.queue.redis.exists("saq:default:guard"), 0))
    first.vanish()
    await eventually(lambda: _is(second.queue.count("queued"), 10), within=10)
    assert keys(await second.take(10)) == [f"k{n}" for n in range(10)]
    assert "worker first was lost; its 4 jobs wait at the head again" in caplog.text
    assert await second.queue.redis.hgetall("saq:default:losses") == {
        f"saq:job:default:k{n}".encode(): b"1" for n in range(4)
    }
    assert held[0].token


async def test_a_worker_that_was_lost_is_told_settles_nothing_and_begins_anew(
    redis_url: str, make_queue: MakeQueue
) -> None:
    first = await Hand(make_queue(redis_url, **SHORT)).open("first")
    await first.queue.submit_many([spec(n, key=f"k{n}") for n in range(3)])
    one, two = await first.take(2)
    second = await Hand(make_queue(redis_url, **SHORT)).open("second")
    consumer: Any = first.queue._consumer
    old = consumer.holder
    consumer._lease.remove(old.holder)  # a process that stands still does not renew,
    await consumer._recovery.close()  # nor does it look for others, which is a sign of life, too
    await eventually(lambda: _is(second.queue.count("active"), 0))
    assert keys(await second.take(3)) == ["k0", "k1", "k2"]
    assert not await first.complete(one, "late")
    await eventually(lambda: bool(first.lost))
    assert first.lost in (["k0", "k1"], ["k1"])
    assert not await first.complete(two, "late")
    assert await second.queue.status("k0") == "active"
    await second.queue.submit(spec(key="next"))
    assert keys(await first.take(1)) == ["next"]
    assert consumer.holder.number > old.number


async def test_a_job_that_takes_its_workers_with_it_is_failed_as_poison(redis_url: str, make_queue: MakeQueue) -> None:
    finder = await Hand(make_queue(redis_url, **SHORT, max_losses=2)).open("finder")
    await finder.queue.submit(spec(key="poison"))
    await finder.queue.submit(spec(key="once", meta={"at_most_once": True}))
    await finder.queue.submit(spec(key="tough", meta={"max_losses": 5}))
    for _ in range(2):
        victim = await Hand(make_queue(redis_url, **SHORT)).open("victim")
        await victim.take(await finder.queue.count("queued"))
        victim.vanish()
        await eventually(lambda: _is(finder.queue.count("active"), 0), within=15)
    assert await finder.queue.status("tough") == "queued"
    for key, words in (("poison", "2 workers were lost"), ("once", "must not be started twice")):
        record = await finder.queue.job(key)
        assert record is not None
        assert record.status is Status.FAILED
        assert words in (record.error or "")


@pytest.mark.alone
async def test_a_worker_that_stops_hands_back_everything_and_leaves_no_trace(
    app: RedisQueue, hand: Hand, server: Server
) -> None:
    await app.submit_many([spec(n, key=f"k{n}") for n in range(300)])
    await hand.take(250, 100)
    start = time.monotonic()
    await hand.queue.close()
    assert time.monotonic() - start < 2
    assert await app.count("queued") == 300
    assert server.client.exists("saq:default:leases", "saq:default:workers") == 0
    assert not server.client.exists("saq:default:losses")
    await hand.open()
    assert keys(await hand.take(300, 100)) == [f"k{n}" for n in range(300)]


@pytest.mark.alone
async def test_an_idle_worker_stops_at_once(hand: Hand) -> None:
    waiting = asyncio.create_task(hand.queue.claim(3))
    await asyncio.sleep(0.2)
    start = time.monotonic()
    await hand.queue.close()
    assert time.monotonic() - start < 0.6
    assert await waiting == []


async def test_jobs_that_still_run_at_the_end_stay_claimed_and_their_lease_alive(
    redis_url: str, make_queue: MakeQueue
) -> None:
    hand = await Hand(make_queue(redis_url, **SHORT)).open()
    other = await Hand(make_queue(redis_url, **SHORT)).open("other")
    await hand.queue.submit_many([spec(n, key=f"k{n}") for n in range(3)])
    await hand.take(3)
    consumer: Any = hand.queue._consumer
    await hand.queue.close(keep=["k1"])
    assert await other.queue.status("k1") == "active"
    assert keys(await other.take(2)) == ["k0", "k2"]
    await asyncio.sleep(2 * SHORT["lease"])
    assert await other.queue.status("k1") == "active"
    consumer._lease.stop()
    await eventually(lambda: _is(other.queue.status("k1"), "queued"))


# The network


async def test_answers_that_are_lost_cost_no_job_and_double_none(
    redis_url: str, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every twentieth call fails, claims, settles and enqueues alike; by turns before it is sent and after it ran."""
    monkeypatch.setattr("litestar_tasks.queues.outage._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("litestar_tasks.queues.outage._LONGEST_PAUSE", 0.004)
    monkeypatch.setattr("litestar_tasks.queues.redis.producer._PAUSE", 0.001)
    chance, turns, original, lost = random.Random(5), itertools.count(1), Link.call, Counter[str]()

    async def call(self: Link, args: Any, timeout: float = 5.0) -> Any:
        if args[0] == "BLMOVE" or (turn := next(turns)) % 20:
            return await original(self, args, timeout)
        if turn % 40:
            lost["request"] += 1
            raise RedisConnectionError("cut before it was sent, which nobody can know")
        lost["answer"] += 1
        await original(self, args, timeout)
        raise RedisConnectionError("cut before the answer")

    hands = [await Hand(make_queue(redis_url, **SHORT)).open(f"h{n}") for n in range(2)]
    app = make_queue(redis_url, enqueue_deadline=20)
    monkeypatch.setattr(Link, "call", call)
    ended: Counter[str] = Counter()
    total = 1500

    async def work(hand: Hand) -> None:
        running = 0
        tasks: set[asyncio.Task[None]] = set()

        async def run(job: ClaimedJob) -> None:
            nonlocal running
            if chance.random() < 0.1 and job.attempts == 0:
                job.attempts += 1
                await hand.queue.settle(job, Settlement.RETRY)
            elif await hand.complete(job):
                ended[job.key] += 1
            running -= 1

        while sum(ended.values()) < total:
            try:
                claimed = await hand.queue.claim(10 - running)
            except BrokerError:
                continue
            for job in claimed:
                running += 1
                tasks.add(asyncio.create_task(run(job)))
        await asyncio.gather(*tasks)

    working = [asyncio.create_task(work(hand)) for hand in hands]
    submissions = list(await asyncio.gather(*(app.submit(spec(n)) for n in range(500))))
    submissions += await app.submit_many([spec(n) for n in range(1000)])
    async with asyncio.timeout(90):
        await asyncio.gather(*working)
    monkeypatch.setattr(Link, "call", original)
    assert not any(submission.deduplicated for submission in submissions)
    assert ended == Counter({submission.job.key: 1 for submission in submissions})
    assert await app.count("incomplete") == 0
    assert lost.keys() == {"request", "answer"}
    assert [hand.lost for hand in hands] == [[], []]


async def test_a_claim_that_arrives_after_it_was_given_up_is_handed_back(redis_url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(redis_url, **SHORT)).open()
    await hand.queue.submit_many([spec(n) for n in range(3)])
    consumer: Any = hand.queue._consumer
    cycles = consumer._cycles
    from litestar_tasks.queues.redis.cycles import _Flight

    link = hand.queue._endpoint.link()
    flight = _Flight([], 2, consumer.holder.take(2), 2)
    await cycles._send(link, consumer.holder, flight)  # nobody is told what it claimed
    await link.close()
    assert await hand.queue.count("active") == 2
    await eventually(lambda: _is(hand.queue.count("active"), 0), within=5)
    assert len(await hand.take(3)) == 3


async def test_connections_that_are_cut_under_load_cost_nothing(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    hand = await Hand(make_queue(redis_url)).open()
    app = make_queue(redis_url)
    submissions = await app.submit_many([spec(n) for n in range(2000)])
    ended: Counter[str] = Counter()
    running = 0

    async def run(job: ClaimedJob) -> None:
        nonlocal running
        if await hand.complete(job):
            ended[job.key] += 1
        running -= 1

    async def cut() -> None:
        while True:
            before = sum(ended.values())
            await asyncio.sleep(0.03)
            await eventually(lambda: sum(ended.values()) > before)  # noqa: B023  # who has no peace gets nowhere
            server.client.client_kill_filter(_type="normal", skipme=True)

    cutting = asyncio.create_task(cut())
    tasks: set[asyncio.Task[None]] = set()
    async with asyncio.timeout(60):
        while sum(ended.values()) < 2000:
            try:
                claimed = await hand.queue.claim(16 - running)
            except BrokerError:
                continue
            for job in claimed:
                running += 1
                tasks.add(asyncio.create_task(run(job)))
    cutting.cancel()
    await asyncio.gather(*tasks)
    await eventually(lambda: _is(app.count("incomplete"), 0))
    assert ended == Counter({submission.job.key: 1 for submission in submissions})
    assert hand.lost == []


async def test_scripts_that_the_server_forgot_are_given_to_it_again(
    app: RedisQueue, hand: Hand, server: Server
) -> None:
    for number in range(5):
        server.client.script_flush()
        await app.submit(spec(number))
        server.client.script_flush()
        (job,) = await hand.take(1)
        server.client.script_flush()
        assert await hand.complete(job)
        assert not await app.cancel(job.key, "no")


async def test_an_unreachable_server_makes_enqueue_raise_and_says_nothing_got_in(make_queue: MakeQueue) -> None:
    queue = make_queue("redis://:hunter2@127.0.0.1:1/0", enqueue_deadline=0.3)
    with pytest.raises(QueueUnavailableError) as caught:
        await queue.submit(spec(key="k"))
    assert (caught.value.maybe_enqueued, caught.value.job_id) == (False, None)
    assert "hunter2" not in f"{caught.value}{queue!r}{queue._endpoint!r}"


async def test_two_workers_share_the_work_and_run_everything_once(redis_url: str, make_queue: MakeQueue) -> None:
    hands = [await Hand(make_queue(redis_url)).open(f"h{n}") for n in range(2)]
    await hands[0].queue.submit_many([spec(n, key=f"k{n}", priority=n % 3) for n in range(2000)])
    ended: Counter[str] = Counter()

    async def work(hand: Hand) -> int:
        done = 0
        while sum(ended.values()) < 2000:
            jobs = await hand.queue.claim(8)
            assert all(await asyncio.gather(*map(hand.complete, jobs)))
            ended.update(keys(jobs))
            done += len(jobs)
        return done

    shares = await asyncio.gather(*map(work, hands))
    assert ended == Counter({f"k{n}": 1 for n in range(2000)})
    assert min(shares) > 100
