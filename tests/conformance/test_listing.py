"""Which jobs there are: counted, listed page by page, found by task, tag and time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from litestar_tasks import ConfigurationError
from litestar_tasks.queues.base import Settlement, TaskQueue
from litestar_tasks.queues.operations import STATES, JobFilter, JobState
from tests.conformance.hands import (
    Hand,
    MakeQueue,
    enqueue,
    eventually,
    keys_of,
    listed,
    needs,
    next_millisecond,
    record,
    spec,
)

pytestmark = needs("listing")

ENDS: dict[JobState, Settlement] = {
    "complete": Settlement.COMPLETE,
    "failed": Settlement.FAILED,
    "aborted": Settlement.ABORTED,
    "quarantined": Settlement.QUARANTINED,
}


async def fill(queue: TaskQueue, state: JobState, keys: str, **options: Any) -> Hand:
    """Bring a job under each of these keys into a state, in order."""
    hand = Hand(queue)
    if state not in ("queued", "scheduled"):
        await hand.open()
    for number, key in enumerate(keys):
        await enqueue(queue, key, delay=100 + number if state == "scheduled" else 0, **options)
        if state in ENDS:
            await hand.end(await hand.one(), ENDS[state])
            await next_millisecond()
        elif state == "retrying":
            await hand.retry(await hand.one(), delay=100 + number)
        elif state == "active":
            await hand.one()
    return hand


@pytest.mark.parametrize("state", STATES)
async def test_a_job_is_counted_and_listed_where_it_stands(queue: TaskQueue, state: JobState) -> None:
    await fill(queue, state, "a")
    wider: dict[JobState, JobState] = {"retrying": "scheduled", "quarantined": "failed"}
    expected = {state, wider.get(state, state)}
    assert {name for name, count in (await queue.counts()).items() if count} == expected
    for name in STATES:
        assert await listed(queue, name) == (["a"] if name in expected else [])


@pytest.mark.parametrize("state", STATES)
async def test_every_listing_goes_both_ways(queue: TaskQueue, state: JobState) -> None:
    await fill(queue, state, "abcde")
    assert await listed(queue, state, newest_first=False) == list("abcde")
    assert await listed(queue, state) == list("edcba")


@pytest.mark.parametrize("state", STATES)
async def test_pages_of_any_length_hold_every_job_once(queue: TaskQueue, state: JobState) -> None:
    await fill(queue, state, "abcdefg")
    for limit in (1, 3, 7):
        for newest_first in (True, False):
            found = await listed(queue, state, newest_first=newest_first, limit=limit)
            assert sorted(found) == list("abcdefg")


async def test_an_empty_queue_has_empty_listings(queue: TaskQueue) -> None:
    assert await queue.counts() == dict.fromkeys(STATES, 0)
    for state in STATES:
        page = await queue.page(JobFilter(state=state))
        assert (page.jobs, page.cursor) == ([], None)


async def test_a_listed_job_is_its_record(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", kwargs={"i": 1}, meta={"tag": "t"})
    await hand.end(await hand.one(), result={"r": 2})
    (job,) = (await queue.page(JobFilter(state="complete"))).jobs
    assert (job.key, job.kwargs, job.result, job.meta["tag"]) == ("k", {"i": 1}, {"r": 2}, "t")
    assert job.id == queue.job_id("k")


@pytest.mark.parametrize("newest_first", [True, False])
async def test_hundreds_of_jobs_that_end_at_once_are_paged_without_gaps(queue: TaskQueue, newest_first: bool) -> None:
    hand = await Hand(queue).open()
    keys = [f"k{number:03}" for number in range(300)]
    await enqueue(queue, *keys)
    jobs = await hand.take(300)
    await asyncio.gather(*map(hand.end, jobs))
    assert sorted(await listed(queue, "complete", limit=37, newest_first=newest_first)) == keys
    # The place is kept though the job that it was given by is gone.
    which = JobFilter(state="complete", newest_first=newest_first)
    first = await queue.page(which, limit=100)
    assert await queue.delete(first.jobs[-1].key)
    second = await queue.page(which, limit=500, cursor=first.cursor)
    assert sorted(keys_of(first.jobs) + keys_of(second.jobs)) == keys


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_keep_their_place_while_jobs_end_and_vanish(queue: TaskQueue, newest_first: bool) -> None:
    hand = await Hand(queue).open()
    await hand.finish(*"abcdefgh")
    which, found, cursor = JobFilter(state="complete", newest_first=newest_first), [], None
    for number in range(20):
        page = await queue.page(which, limit=2, cursor=cursor)
        found += keys_of(page.jobs)
        if (cursor := page.cursor) is None:
            break
        if number < 3:
            await hand.finish(f"new{number}")
            await queue.delete(found[-1])
    stayed = [key for key in found if len(key) == 1]
    assert stayed == sorted("abcdefgh", reverse=newest_first)
    assert len(found) == len(set(found))


async def test_scheduled_pages_keep_their_place_while_jobs_come_and_go(queue: TaskQueue) -> None:
    await enqueue(queue, "a", delay=100)
    await enqueue(queue, "c", delay=300)
    await enqueue(queue, "d", delay=400)
    which = JobFilter(state="scheduled", newest_first=False)
    first = await queue.page(which, limit=2)
    assert keys_of(first.jobs) == ["a", "c"]
    await queue.cancel("c", "no")
    await enqueue(queue, "b", delay=200)
    await enqueue(queue, "e", delay=500)
    assert keys_of((await queue.page(which, cursor=first.cursor)).jobs) == ["d", "e"]


async def test_queued_jobs_are_listed_in_the_order_of_their_claims(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    priorities = (0, 5, -5) if "priorities" in queue.capabilities else (0, 0, 0)
    for name, priority in zip("abc", priorities, strict=True):
        await enqueue(queue, *(f"{name}{number}" for number in range(4)), priority=priority)
    await queue.cancel("a1", "no")
    forwards = await listed(queue, "queued", newest_first=False, limit=3)
    assert await listed(queue, "queued", limit=2) == forwards[::-1]
    assert keys_of(await hand.take(11)) == forwards


async def test_queued_pages_go_on_while_workers_take_jobs(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcdefgh")
    which = JobFilter(state="queued", newest_first=False)
    first = await queue.page(which, limit=3)
    await hand.take(2)
    second = await queue.page(which, limit=2, cursor=first.cursor)
    await hand.take(5)  # beyond the place
    await enqueue(queue, "i")
    third = await queue.page(which, limit=5, cursor=second.cursor)
    assert [keys_of(page.jobs) for page in (first, second, third)] == [list("abc"), list("de"), list("hi")]


async def test_queued_pages_go_on_while_jobs_are_enqueued_and_taken_from_the_newest_on(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcdefgh")
    first = await queue.page(JobFilter(state="queued"), limit=3)
    await enqueue(queue, *"xyz")
    await hand.take(2)
    second = await queue.page(JobFilter(state="queued"), limit=9, cursor=first.cursor)
    assert [keys_of(page.jobs) for page in (first, second)] == [list("hgf"), list("edc")]


async def test_queued_pages_go_on_though_the_last_job_of_a_page_was_aborted(queue: TaskQueue) -> None:
    await enqueue(queue, *"abcdef")
    for newest_first, expected in ((False, "def"), (True, "ba")):
        which = JobFilter(state="queued", newest_first=newest_first)
        first = await queue.page(which, limit=3)
        await queue.cancel(first.jobs[-1].key, "no")
        assert keys_of((await queue.page(which, cursor=first.cursor)).jobs) == list(expected)


async def test_queued_pages_go_on_though_the_last_job_of_a_page_was_tried_and_joined_the_tail(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, *"abcdef")
    which = JobFilter(state="queued", newest_first=False)
    first = await queue.page(which, limit=2)
    for job in await hand.take(2):
        await hand.retry(job)
    rest = keys_of((await queue.page(which, cursor=first.cursor)).jobs)
    assert rest[:4] == list("cdef")


async def test_a_job_that_is_due_is_queued_whether_a_worker_looks_or_not(queue: TaskQueue) -> None:
    await enqueue(queue, "k", delay=0.05)

    async def due() -> bool:
        return await listed(queue, "queued") == ["k"]

    await eventually(due)
    assert await listed(queue, "scheduled") == []
    counts = await queue.counts()
    assert (counts["queued"], counts["scheduled"]) == (1, 0)


async def test_a_retrying_job_is_not_listed_as_such_once_it_is_claimed(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "k", "other")
    for job, delay in zip(await hand.take(2), (0.1, 100), strict=True):
        await hand.retry(job, delay=delay)
    assert (await queue.counts())["retrying"] == 2
    assert (await hand.one()).key == "k"
    assert await listed(queue, "retrying") == ["other"]
    assert (await queue.counts())["retrying"] == 1


async def test_a_snoozed_job_counts_as_retrying_only_if_it_has_failed_before(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "fresh", "failed")
    fresh, failed = await hand.take(2)
    await hand.snooze(fresh, delay=100)
    await hand.retry(failed)
    await hand.snooze(await hand.one(), delay=100)
    assert await listed(queue, "retrying") == ["failed"]
    assert sorted(await listed(queue, "scheduled")) == ["failed", "fresh"]


@pytest.mark.parametrize("state", STATES)
async def test_jobs_are_found_by_task_and_tag(queue: TaskQueue, state: JobState) -> None:
    hand = await fill(queue, state, "ab", task="one", meta={"tag": "x"})
    if state not in ("queued", "scheduled"):
        await hand.queue.close()
    await fill(queue, state, "cd", task="two", meta={"tag": "x"})
    if state not in ("queued", "scheduled"):
        await hand.queue.close()
    if state == "active":
        return  # they are handed back when their worker stops
    assert sorted(await listed(queue, state, task="one", limit=1)) == ["a", "b"]
    assert sorted(await listed(queue, state, tag="x", limit=3)) == list("abcd")
    assert sorted(await listed(queue, state, task="two", tag="x")) == ["c", "d"]
    assert await listed(queue, state, task="one", tag="y") == []
    assert await listed(queue, state, task="three") == []


async def test_running_jobs_are_found_by_task(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "a", task="one")
    await enqueue(queue, "b", task="two")
    await hand.take(2)
    assert await listed(queue, "active", task="two") == ["b"]


async def test_a_search_reads_a_bounded_number_of_records_for_each_page(queue: TaskQueue) -> None:
    await queue.submit(spec("first", task="rare"))
    await queue.submit_many([spec(f"k{number}") for number in range(700)])
    await queue.submit(spec("last", task="rare"))
    which, found, pages, cursor = JobFilter(state="queued", task="rare"), [], 0, None
    while True:
        page = await queue.page(which, limit=5, cursor=cursor)
        found, pages = found + keys_of(page.jobs), pages + 1
        if (cursor := page.cursor) is None:
            break
    assert found == ["last", "first"]
    assert pages <= 5


async def test_ended_jobs_are_found_by_the_moment_of_their_end(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("a")
    await asyncio.sleep(0.02)
    between = datetime.now(UTC)
    await asyncio.sleep(0.02)
    await hand.finish("b")
    assert await listed(queue, "complete", since=between) == ["b"]
    assert await listed(queue, "complete", until=between) == ["a"]
    assert await listed(queue, "complete", since=between - timedelta(hours=1), until=between, limit=1) == ["a"]
    assert await listed(queue, "complete", until=between - timedelta(hours=1)) == []
    assert await listed(queue, "complete", since=between + timedelta(hours=1)) == []


async def test_scheduled_jobs_are_found_by_the_moment_they_are_due(queue: TaskQueue) -> None:
    now = datetime.now(UTC)
    for key, delay in (("a", 100), ("b", 200), ("c", 300)):
        await enqueue(queue, key, delay=delay)
    assert await listed(queue, "scheduled", since=now + timedelta(seconds=150), newest_first=False) == ["b", "c"]
    assert await listed(queue, "scheduled", until=now + timedelta(seconds=250), newest_first=False) == ["a", "b"]
    assert await listed(queue, "scheduled", until=now) == []
    assert await listed(queue, "scheduled", since=now - timedelta(days=1), limit=2, newest_first=False) == list("abc")


async def test_waiting_and_running_jobs_are_found_by_when_they_were_enqueued_and_started(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "a", "b")
    await hand.one()
    await asyncio.sleep(0.05)
    between = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await hand.one()
    await enqueue(queue, "c")
    await asyncio.sleep(0.01)
    assert await listed(queue, "active", since=between) == ["b"]
    assert await listed(queue, "active", until=between) == ["a"]
    assert await listed(queue, "queued", since=between) == ["c"]
    assert await listed(queue, "queued", until=between) == []


async def test_a_cursor_is_good_for_its_own_listing_only(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish(*"abc")
    await enqueue(queue, *"def")
    for state in ("complete", "queued"):
        page = await queue.page(JobFilter(state=state), limit=1)
        assert page.cursor is not None
        for cursor, which in (
            (page.cursor, JobFilter(state=state, newest_first=False)),
            (page.cursor, JobFilter(state=state, task="noop")),
            (page.cursor, JobFilter(state="failed")),
            ("", JobFilter(state=state)),
            ("nonsense", JobFilter(state=state)),
            (page.cursor[:-3], JobFilter(state=state)),
            (page.cursor.partition(".")[0] + ".W10", JobFilter(state=state)),
        ):
            with pytest.raises(ConfigurationError, match="cursor"):
                await queue.page(which, cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_page_has_from_1_to_500_jobs(queue: TaskQueue, limit: int) -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        await queue.page(JobFilter(state="queued"), limit=limit)
    with pytest.raises(ConfigurationError, match="limit"):
        await queue.bulk("abort", JobFilter(state="queued"), limit=limit)


async def test_a_filter_that_means_nothing_is_refused() -> None:
    now = datetime.now(UTC)
    for options in ({"since": datetime(2025, 1, 1)}, {"since": now, "until": now}):  # that is the point
        with pytest.raises(ConfigurationError):
            JobFilter(state="complete", **options)
    with pytest.raises(ConfigurationError, match="no state 'done'"):
        JobFilter(state="done")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("state", ["complete", "failed", "aborted"])
async def test_so_many_records_are_kept_and_the_oldest_go(make: MakeQueue, state: JobState) -> None:
    queue = await make(keep_complete=3, keep_failed=3)
    hand = await Hand(queue).open()
    await hand.finish(*"abcdef", how=ENDS[state])

    async def trimmed() -> bool:
        return (await queue.counts())[state] == 3

    await eventually(trimmed)
    assert await listed(queue, state) == list("fed")
    assert await queue.job("a") is None
    assert (await record(queue, "f")).key == "f"


async def test_quarantined_jobs_go_with_the_failed_ones_that_they_are(make: MakeQueue) -> None:
    queue = await make(keep_failed=3)
    hand = await Hand(queue).open()
    await hand.finish(*"abcd", how=Settlement.QUARANTINED)

    async def trimmed() -> bool:
        counts = await queue.counts()
        return (counts["failed"], counts["quarantined"]) == (3, 3)

    await eventually(trimmed)
    assert await listed(queue, "quarantined") == await listed(queue, "failed") == list("dcb")


async def test_a_key_that_begins_anew_is_not_listed_as_ended(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    await enqueue(queue, "k")
    assert await listed(queue, "complete") == []
    assert (await queue.counts())["complete"] == 0
    await hand.fail(await hand.one())
    assert (await listed(queue, "complete"), await listed(queue, "failed")) == ([], ["k"])
