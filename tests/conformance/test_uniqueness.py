"""What calls that are alike come to: one job, one at a time, one that waits for the last of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from saq.job import Job, Status

from litestar_tasks import Debounce, Exclusive, Registry, Throttle, Unique
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import Settlement, Submission, TaskQueue
from litestar_tasks.uniqueness import Lock
from tests.conformance.brokers import Broker
from tests.conformance.hands import (
    Hand,
    MakeQueue,
    act,
    enqueue,
    eventually,
    keys_of,
    listed,
    needs,
    record,
    spec,
    stands,
)

LEASE = 1.2


def alike(
    key: str | None = None,
    *,
    name: str = "a",
    until: Literal["started", "finished", "enqueued"] = "finished",
    window: float = 0,
    **options: Any,
) -> JobSpec:
    """A call that takes a lock, which others of that name want, too."""
    return spec(key, lock=Lock(name=(name * 32)[:32], until=until, window=window), **options)


def debounced(i: int, *, delay: float, max_wait: float = 0, **options: Any) -> JobSpec:
    deadline = time.time() + max_wait if max_wait else 0
    lock = Lock(name="d" * 32, until="started", debounce=True, deadline=deadline)
    return spec(lock=lock, delay=delay, kwargs={"i": i}, **options)


async def found(queue: TaskQueue, one: JobSpec, key: str) -> None:
    """Assert that a call finds the job of that key."""
    submission = await queue.submit(one)
    assert (submission.deduplicated, submission.job.key) == (True, key)


async def stored(queue: TaskQueue, one: JobSpec) -> str:
    """Assert that a call is a job of its own, and return its key."""
    submission = await queue.submit(one)
    assert not submission.deduplicated
    return submission.job.key


# One job for calls that are alike


async def test_a_second_call_finds_the_job_that_waits_or_runs(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k", kwargs={"i": 1}))
    submission = await queue.submit(alike(kwargs={"i": 2}))
    assert (submission.deduplicated, submission.job.key, submission.job.kwargs) == (True, "k", {"i": 1})
    await stored(queue, alike("other", name="b"))
    await stored(queue, spec("without"))
    await hand.take(3)
    await found(queue, alike(), "k")
    assert await queue.count("queued") == 0


async def test_one_that_waits_for_its_time_is_found(queue: TaskQueue) -> None:
    await stored(queue, alike("k", delay=600))
    await found(queue, alike(), "k")
    assert await queue.status("k") == "scheduled"


async def test_calls_of_one_batch_find_each_other(queue: TaskQueue) -> None:
    specs = [alike("k"), spec("plain"), alike("l"), alike("m", name="b"), alike("n", name="b"), spec("last")]
    submissions = await queue.submit_many(specs)
    assert [one.job.key for one in submissions] == ["k", "plain", "k", "m", "m", "last"]
    assert [one.deduplicated for one in submissions] == [False, False, True, False, True, False]
    hand = await Hand(queue).open()
    assert keys_of(await hand.take(4)) == ["k", "plain", "m", "last"]
    assert await queue.count("queued") == 0


async def test_hundreds_of_one_batch_are_one_job(queue: TaskQueue) -> None:
    submissions = await queue.submit_many([alike() for _ in range(450)])
    assert len({one.job.key for one in submissions}) == 1
    assert sum(not one.deduplicated for one in submissions) == 1
    assert await queue.count("queued") == 1


async def test_a_key_of_ones_own_and_the_lock_are_two_things(queue: TaskQueue) -> None:
    await stored(queue, alike("k"))
    await found(queue, alike("l"), "k")
    await found(queue, alike("k", name="b"), "k")
    await stored(queue, alike("m", name="b"))


@pytest.mark.parametrize("how", ["complete", "failed", "aborted", "quarantined"])
async def test_the_end_of_a_job_however_it_ended_lets_the_next_one_in(queue: TaskQueue, how: str) -> None:
    hand = await Hand(queue).open()
    for _ in range(3):
        await stored(queue, alike())
        await hand.end(await hand.one(), Settlement(how))


async def test_a_job_that_is_aborted_while_it_waits_or_runs_lets_the_next_one_in(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for delay in (0.0, 600.0):
        key = await stored(queue, alike(delay=delay))
        assert await queue.cancel(key, "enough")
    await stored(queue, alike())
    job = await hand.one()
    await queue.cancel(job.key, "enough")
    await found(queue, alike(), job.key)
    assert await hand.hand_back(job)
    await stands(queue, job.key, "aborted")
    await stored(queue, alike())


async def test_purging_and_deleting_leave_no_lock_behind(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await queue.submit_many([alike("k"), alike("l", name="b", delay=600)])
    assert await queue.purge() == 2
    await stored(queue, alike("k"))
    await stored(queue, alike("m", name="b"))
    for job in await hand.take(2):
        await hand.end(job)
    assert await queue.delete("k")
    await stored(queue, alike())


async def test_a_job_is_found_whatever_comes_between_its_attempts(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k"))
    for step in (hand.retry, hand.snooze, hand.hand_back):
        assert await step(await hand.one())
        await found(queue, alike(), "k")
    assert await hand.retry(await hand.one(), delay=600)
    await found(queue, alike(), "k")
    assert await queue.rerun("k")  # at once
    await hand.end(await hand.one())
    await stored(queue, alike())


async def test_until_started_the_next_one_waits_beside_the_one_that_runs(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k", until="started"))
    await found(queue, alike(until="started"), "k")
    running = await hand.one()
    await stored(queue, alike("l", until="started"))
    await found(queue, alike(until="started"), "l")
    assert await hand.retry(running)  # does not take it again
    await found(queue, alike(until="started"), "l")
    assert keys_of(await hand.take(2)) == ["l", "k"]
    await stored(queue, alike(until="started"))


@needs("leases", "shared")
async def test_the_job_of_a_lost_worker_is_found_until_it_has_ended(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await stored(first.queue, alike("k"))
    await first.one()
    await broker.vanish(first.queue)
    await found(second.queue, alike(), "k")
    job = await second.one()
    assert job.key == "k"
    await found(second.queue, alike(), "k")
    await second.end(job)
    await stored(second.queue, alike())


@needs("leases", "shared")
async def test_a_job_that_is_failed_for_its_lost_workers_lets_the_next_one_in(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE, max_losses=1)).open(name) for name in ("first", "second")]
    await stored(first.queue, alike("k"))
    await first.one()
    await broker.vanish(first.queue)
    await stands(second.queue, "k", "failed")
    await stored(second.queue, alike())


@needs("shared")
async def test_of_many_producers_at_once_one_makes_the_job(make: MakeQueue) -> None:
    queues = [await make() for _ in range(4)]
    for round_ in range(5):
        names = "abc"
        calls = [(queue, name) for queue in queues for name in names for _ in range(5)]
        random.shuffle(calls)

        async def call(queue: TaskQueue, name: str, turn: int = round_) -> tuple[str, Submission]:
            if turn % 2:
                return name, (await queue.submit_many([alike(name=name), spec()]))[0]
            return name, await queue.submit(alike(name=name))

        answers = await asyncio.gather(*(call(queue, name) for queue, name in calls))
        for name in names:
            mine = [submission for of, submission in answers if of == name]
            assert len({one.job.key for one in mine}) == 1
            assert sum(not one.deduplicated for one in mine) == 1
        await queues[0].purge()


@needs("shared")
async def test_producers_and_workers_at_once_never_have_two_at_a_time(make: MakeQueue) -> None:
    hands = [await Hand(await make()).open(f"w{number}") for number in range(3)]
    running: set[str] = set()
    ended = 0

    async def work(hand: Hand) -> None:
        nonlocal ended
        while ended < 60:
            for job in await hand.queue.claim(3):
                assert not running, "two at a time"
                running.add(job.key)
                await asyncio.sleep(0.002)
                running.remove(job.key)
                await hand.end(job)
                ended += 1

    async def produce(hand: Hand) -> None:
        while ended < 60:
            await hand.queue.submit(alike())

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for hand in hands:
            tasks.create_task(work(hand))
            tasks.create_task(produce(hand))


# For a time


async def test_within_its_window_a_job_is_found_that_has_ended_even_without_its_record(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k", window=600))
    await hand.end(await hand.one())
    await found(queue, alike(window=600), "k")
    await stored(queue, alike("l"))  # who asks for no window finds none
    assert await queue.delete("k")
    submission = await queue.submit(alike(window=600))
    assert (submission.deduplicated, submission.job.id) == (True, queue.job_id("k"))
    assert await queue.job("k") is None


async def test_once_its_window_has_passed_the_end_of_the_job_counts(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k", window=0.3))
    running = await hand.one()
    await asyncio.sleep(0.4)
    await found(queue, alike(window=0.3), "k")
    await hand.end(running)
    await stored(queue, alike(window=600))


async def test_in_each_period_the_first_call_is_a_job(queue: TaskQueue) -> None:
    await stored(queue, alike("k", until="enqueued", window=0.5))
    await found(queue, alike(until="enqueued", window=0.5), "k")
    submission = Submission(Job("noop"), deduplicated=True)
    async with asyncio.timeout(20):
        while submission.deduplicated:
            submission = await queue.submit(alike("l", until="enqueued", window=600))
            await asyncio.sleep(0.05)
    await found(queue, alike(until="enqueued", window=600), "l")
    assert await queue.count("queued") == 2  # that the first one still waits does not count


# After the last of them


async def test_a_debounced_call_replaces_the_arguments_and_puts_the_start_off(queue: TaskQueue) -> None:
    key = await stored(queue, debounced(1, delay=300, priority=3))
    before = (await record(queue, key)).scheduled
    submission = await queue.submit(debounced(2, delay=600))
    assert (submission.deduplicated, submission.job.key, submission.job.kwargs) == (True, key, {"i": 2})
    job = await record(queue, key)
    assert (job.kwargs, job.priority, job.key) == ({"i": 2}, 0, key)
    assert job.scheduled > before + 200
    assert await queue.status(key) == "scheduled"
    assert await listed(queue, "scheduled") == [key]


async def test_a_debounced_job_starts_once_with_the_arguments_of_the_last_call(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    keys = {(await queue.submit(debounced(number, delay=0.4))).job.key for number in range(5)}
    job = await hand.one()
    assert keys == {job.key}
    assert job.kwargs == {"i": 4}
    await stored(queue, debounced(5, delay=600))  # the one that runs is not changed any more
    assert (await record(queue, job.key)).kwargs == {"i": 4}
    await hand.end(job)
    assert await queue.claim(1) == []


async def test_debounced_calls_of_one_batch_are_one_job(queue: TaskQueue) -> None:
    submissions = await queue.submit_many([debounced(number, delay=0.2 + number / 100) for number in range(10)])
    assert len({one.job.key for one in submissions}) == 1
    assert [one.deduplicated for one in submissions] == [False] + [True] * 9
    hand = await Hand(queue).open()
    assert (await hand.one()).kwargs == {"i": 9}


async def test_a_job_is_put_off_no_longer_than_it_was_said_at_first(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    key = await stored(queue, debounced(1, delay=0.5, max_wait=1))
    await found(queue, debounced(2, delay=600, max_wait=600), key)
    job = await hand.one()
    assert (job.key, job.kwargs) == (key, {"i": 2})


async def test_a_debounced_job_that_is_due_already_is_put_off_as_well(queue: TaskQueue) -> None:
    key = await stored(queue, debounced(1, delay=0.05))
    await eventually(lambda: stands_now(queue, key, "queued"))
    await found(queue, debounced(2, delay=600), key)
    hand = await Hand(queue).open()
    assert await queue.claim(1) == []
    assert await queue.status(key) == "scheduled"
    await enqueue(queue, "next")
    assert (await hand.one()).key == "next"


async def test_a_debounced_job_that_was_aborted_is_not_replaced(queue: TaskQueue) -> None:
    key = await stored(queue, debounced(1, delay=600))
    assert await queue.cancel(key, "enough")
    assert await stored(queue, debounced(2, delay=600)) != key


async def test_the_last_of_debounced_calls_always_runs_though_workers_start_the_job_at_any_moment(
    make: MakeQueue,
) -> None:
    queue = await make()
    hand = await Hand(queue).open()
    keys: set[str] = set()
    ran: dict[str, int] = {}
    last = 150

    async def produce() -> None:
        for number in range(last + 1):
            keys.add((await queue.submit(debounced(number, delay=random.random() / 50))).job.key)
            await asyncio.sleep(random.random() / 50)

    async def work() -> None:
        while last not in ran.values():
            for job in await queue.claim(2):
                assert job.kwargs is not None
                assert job.key not in ran, "started twice"
                ran[job.key] = job.kwargs["i"]
                await hand.end(job)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        tasks.create_task(work())
    assert ran.keys() == keys
    assert list(ran.values()) == sorted(ran.values())
    assert len(ran) > 5, "some of them were started meanwhile"
    assert await queue.count("incomplete") == 0


# Run again by an operator


async def test_a_job_is_not_run_again_while_another_one_holds_its_lock(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k"))
    await hand.fail(await hand.one())
    await stored(queue, alike("l"))
    assert not await queue.rerun("k")
    assert await queue.status("k") == "failed"
    assert await act(queue, "retry", "failed") == 0
    await hand.end(await hand.one())
    assert await queue.rerun("k")
    await found(queue, alike(), "k")
    assert (await hand.one()).key == "k"


async def test_of_several_that_are_alike_one_is_run_again(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for key in ("k", "l", "m"):
        await stored(queue, alike(key))
        await hand.fail(await hand.one())
    assert await act(queue, "retry", "failed") == 1
    (again,) = await hand.take(1)
    await found(queue, alike(), again.key)


async def test_until_started_holds_for_a_job_that_is_run_again_as_well(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await stored(queue, alike("k", until="started"))
    await hand.end(await hand.one())
    assert await queue.rerun("k")
    await found(queue, alike(until="started"), "k")
    await hand.one()
    await stored(queue, alike(until="started"))


# One at a time


async def stands_now(queue: TaskQueue, key: str, status: str) -> bool:
    return await queue.status(key) == status


async def together(queue: TaskQueue, *keys: str, group: str = "g", **options: Any) -> None:
    await queue.submit_many([spec(key, group=group, **options) for key in keys])


async def test_of_a_group_one_runs_at_a_time_in_order_and_others_pass(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b", "c")
    await enqueue(queue, "x", "y")
    await together(queue, "p", group="h")
    first = await hand.take(4)
    assert keys_of(first) == ["a", "x", "y", "p"]
    assert await queue.claim(5) == []
    assert [await queue.status(key) for key in "abc"] == ["active", "queued", "queued"]
    assert (await queue.counts())["queued"] == 2
    await hand.end(first[0])
    second = await hand.one()
    assert (second.key, second.attempts) == ("b", 0)
    assert await queue.claim(5) == []
    await hand.fail(second)
    assert (await hand.one()).key == "c"


async def test_those_that_wait_for_others_are_listed_as_queued(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, *"abcde")
    await hand.one()
    assert await queue.claim(9) == []
    await enqueue(queue, "x")
    for limit in (1, 2, 500):
        assert sorted(await listed(queue, "queued", limit=limit, newest_first=False)) == [*"bcde", "x"]
        assert sorted(await listed(queue, "queued", limit=limit, newest_first=True)) == [*"bcde", "x"]
    order = await listed(queue, "queued", newest_first=False)
    assert [key for key in order if key != "x"] == [*"bcde"]
    assert await queue.count("queued") == 5


async def test_the_more_urgent_one_of_a_group_goes_first(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "running")
    running = await hand.one()
    await together(queue, "late", priority=5)
    await together(queue, "early", priority=-5)
    await together(queue, "usual")
    assert await queue.claim(9) == []
    order = []
    for _ in range(3):
        await hand.end(running)
        running = await hand.one()
        order.append((running.key, running.priority))
    assert order == [("early", -5), ("usual", 0), ("late", 5)]


@pytest.mark.parametrize("step", ["retry", "snooze"])
async def test_who_waits_for_its_next_attempt_holds_nobody_up(queue: TaskQueue, step: str) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b")
    await getattr(hand, step)(await hand.one(), delay=0.3)
    second = await hand.one()
    assert second.key == "b"
    await eventually(lambda: stands_now(queue, "a", "queued"))
    assert await queue.claim(2) == []
    await hand.end(second)
    assert (await hand.one()).key == "a"


async def test_a_job_that_is_handed_back_goes_first(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b", "c")
    job = await hand.one()
    assert await queue.claim(2) == []
    assert await hand.hand_back(job)
    for key in "abc":
        job = await hand.one()
        assert job.key == key
        assert await queue.claim(2) == []
        await hand.end(job)


async def test_one_that_waits_for_its_group_can_be_aborted(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b", "c")
    job = await hand.one()
    assert await queue.claim(2) == []
    assert await queue.cancel("b", "enough")
    assert await queue.status("b") == "aborted"
    await hand.end(job)
    assert (await hand.one()).key == "c"


async def test_the_next_one_has_its_turn_though_the_one_before_is_aborted_as_it_is_called(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b", "c")
    job = await hand.one()
    assert await queue.claim(2) == []
    await hand.end(job)
    assert await queue.cancel("b", "enough")
    assert (await hand.one()).key == "c"


async def test_an_abort_of_the_one_that_runs_makes_way(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b")
    job = await hand.one()
    assert await queue.claim(2) == []
    await queue.cancel("a", "enough")
    await hand.end(job, Settlement.ABORTED)
    assert (await hand.one()).key == "b"


async def test_purging_takes_those_that_wait_for_others_and_frees_the_group(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b", "c")
    job = await hand.one()
    assert await queue.claim(2) == []
    assert await queue.purge() == 2
    assert (await queue.counts())["queued"] == 0
    await together(queue, "d")
    assert await queue.claim(2) == []
    await hand.end(job)
    assert (await hand.one()).key == "d"


async def test_those_that_wait_for_others_can_be_aborted_together(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, *"abcd")
    job = await hand.one()
    assert await queue.claim(2) == []
    assert await act(queue, "abort", "queued") == 3
    await hand.end(job)
    assert await queue.count("incomplete") == 0
    await together(queue, "e")
    assert (await hand.one()).key == "e"


async def test_of_a_group_that_is_run_again_one_runs_at_a_time(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, "a", "b")
    for _ in "ab":
        await hand.fail(await hand.one())
    assert await act(queue, "retry", "failed") == 2
    job = await hand.one()
    assert await queue.claim(2) == []
    await hand.end(job)
    assert {job.key, (await hand.one()).key} == {"a", "b"}


@needs("leases", "shared")
async def test_the_death_of_a_worker_frees_the_group_with_its_recovery(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE)).open(name) for name in ("first", "second")]
    await together(first.queue, "a", "b", "c")
    await first.one()
    assert await second.queue.claim(2) == []
    await broker.vanish(first.queue)
    for key in "abc":
        job = await second.one()
        assert (job.key, job.attempts) == (key, 0)
        assert await second.queue.claim(2) == []
        await second.end(job)


@needs("leases", "shared")
async def test_a_group_goes_on_though_one_of_it_is_failed_for_its_lost_workers(broker: Broker, make: MakeQueue) -> None:
    first, second = [await Hand(await make(lease=LEASE, max_losses=1)).open(name) for name in ("first", "second")]
    await together(first.queue, "a", "b")
    await first.one()
    assert await second.queue.claim(2) == []
    await broker.vanish(first.queue)
    assert (await second.one()).key == "b"
    await stands(second.queue, "a", "failed")


@needs("shared")
async def test_a_worker_that_stops_leaves_its_place_in_the_group_to_others(make: MakeQueue) -> None:
    first, second = [await Hand(await make()).open(name) for name in ("first", "second")]
    await together(first.queue, "a", "b")
    await first.one()
    assert await second.queue.claim(2) == []
    await first.queue.close()
    job = await second.one()
    assert job.key == "a"
    assert await second.queue.claim(2) == []
    await second.end(job)
    assert (await second.one()).key == "b"


@needs("shared")
async def test_of_many_workers_no_two_run_the_same_group(make: MakeQueue) -> None:
    hands = [await Hand(await make()).open(f"w{number}") for number in range(4)]
    groups = ["g", "h", "i"]
    await hands[0].queue.submit_many(
        [spec(f"{group}{number}", group=group) for number in range(20) for group in groups]
        + [spec(f"x{number}") for number in range(40)]
    )
    running: dict[str, str] = {}
    order: dict[str, list[int]] = {group: [] for group in groups}
    ended = 0

    async def run(hand: Hand, job: Any) -> None:
        nonlocal ended
        group = job.key[0]
        if group in order:
            assert group not in running, f"{job.key} beside {running[group]}"
            running[group] = job.key
            order[group].append(int(job.key[1:]))
        await asyncio.sleep(random.random() / 100)
        running.pop(group, None)
        how: Callable[..., Any] = hand.end if random.random() < 0.8 else hand.hand_back
        if how == hand.end:
            ended += 1
        elif group in order:
            order[group].pop()
        await how(job)

    async def work(hand: Hand) -> None:
        while ended < 100:
            await asyncio.gather(*(run(hand, job) for job in await hand.queue.claim(4)))

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for hand in hands:
            tasks.create_task(work(hand))
    assert all(numbers == sorted(numbers) and len(numbers) == 20 for numbers in order.values())


async def test_hundreds_that_wait_for_one_hold_up_nobody_else(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await together(queue, *(f"g{number}" for number in range(700)))
    await enqueue(queue, "x")
    assert {job.key for job in await hand.take(2)} == {"g0", "x"}
    assert await queue.claim(1) == []


# As tasks


@pytest.fixture
def registry() -> Registry:
    registry = Registry("test", allow_local=True)

    @registry.task(unique=True)
    async def once(number: int, *, text: str = "") -> None: ...

    @registry.task(exclusive=Exclusive(by="customer"))
    async def alone(customer: int) -> None: ...

    @registry.task(debounce=Debounce(600, by="document"))
    async def index(document: int, text: str) -> None: ...

    @registry.task(throttle=Throttle(timedelta(hours=1), by="document"))
    async def ping(document: int) -> None: ...

    @registry.task(unique=Unique(until="started", window=timedelta(hours=1)))
    async def sync(account: int) -> None: ...

    return registry


async def test_options_reach_the_queue_also_by_name(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    first = await queue.enqueue("once", number=1)
    assert (await queue.enqueue("once", number=1, text="")).key == first.key
    assert (await queue.enqueue("once", number=2)).key != first.key
    document = await queue.enqueue("index", document=1, text="old")
    assert (await queue.enqueue("index", document=1, text="new")).key == document.key
    assert (await record(queue, document.key)).kwargs == {"document": 1, "text": "new"}
    assert (await queue.enqueue("index", document=2, text="")).key != document.key
    assert (await queue.enqueue("ping", document=1)).key == (await queue.enqueue("ping", document=1)).key
    hand = await Hand(queue).open()
    jobs = await hand.take(3)
    assert {job.function for job in jobs} == {"once", "ping"}
    sync = await queue.enqueue("sync", account=1)
    await hand.end(await hand.one())
    assert (await queue.enqueue("sync", account=1)).key == sync.key
    one, two, other = [await queue.enqueue("alone", customer=customer) for customer in (1, 1, 2)]
    assert {job.key for job in await hand.take(2)} == {one.key, other.key}
    assert await queue.status(two.key) == "queued"
    assert (await record(queue, first.key)).status is Status.ACTIVE


async def test_a_call_that_waits_for_a_moment_of_its_own_holds_the_lock_until_then(
    make: MakeQueue, registry: Registry
) -> None:
    queue = await make(registry=registry)
    task = registry.get_task("once")
    later = datetime.now(UTC) + timedelta(hours=1)
    first = await queue.submit(task.spec((1,), {}, {"run_at": later}))
    assert (await queue.enqueue("once", number=1)).key == first.job.key
