"""What operators do to a queue on Redis, beyond what every broker promises: what it costs, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import ClaimedJob, Settlement, WorkerHooks
from litestar_tasks.queues.operations import STATES, BulkAction, JobFilter, JobState, Minute, TaskMinute
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.queues.redis.layout import Layout
from tests.integration.conftest import Server, eventually

MakeQueue = Callable[..., RedisQueue]

LAYOUT = Layout("default")


def document(key: str, **fields: Any) -> str:
    return json.dumps({"function": "noop", "queue": "default", "key": key, "status": "queued", **fields})


def fill(client: redis.Redis, state: JobState, count: int) -> None:
    """Put jobs where they would stand, faster than by working them."""
    keys = [f"k{number:06}" for number in range(count)]
    status = {"quarantined": "failed", "scheduled": "queued", "retrying": "queued"}.get(state, state)
    later = time.time() + 10_000
    with client.pipeline(transaction=False) as pipe:
        for number, key in enumerate(keys):
            job_id = LAYOUT.job_id(key)
            pipe.set(job_id, document(key, status=status))
            match state:
                case "queued":
                    pipe.zadd(LAYOUT.incomplete, {job_id: 0})
                    pipe.rpush(LAYOUT.queued, job_id)
                case "active":
                    pipe.zadd(LAYOUT.incomplete, {job_id: -(2**27 + number)})
                case "scheduled" | "retrying":
                    pipe.zadd(LAYOUT.incomplete, {job_id: later + number})
                    if state == "retrying":
                        pipe.zadd(LAYOUT.key("retrying"), {job_id: later + number})
                case _:
                    pipe.zadd(LAYOUT.key(state), {job_id: number + 1})
        pipe.execute()


def calls(client: redis.Redis) -> Counter[str]:
    """How often the server has been asked for each command, those of scripts included."""
    stats: dict[str, Any] = client.info("commandstats")
    return Counter({name: int(one["calls"]) for name, one in stats.items()})


async def opened(queue: RedisQueue) -> RedisQueue:
    await queue.open("hand", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    return queue


async def take(queue: RedisQueue, count: int) -> list[ClaimedJob]:
    jobs: list[ClaimedJob] = []
    async with asyncio.timeout(20):
        while len(jobs) < count:
            jobs += await queue.claim(count - len(jobs))
    return jobs


def specs(*keys: str) -> list[JobSpec]:
    return [JobSpec(task="noop", key=key, kwargs={}) for key in keys]


@pytest.mark.parametrize("state", STATES)
async def test_a_page_costs_the_same_however_long_the_queue_is(
    state: JobState, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    costs: list[Counter[str]] = []
    for count in (200, 1_500):
        server.client.flushall()
        fill(server.client, state, count)
        queue = make_queue(redis_url)
        await queue.page(JobFilter(state=state))  # the scripts are known now
        before = calls(server.client)
        for newest_first in (True, False):
            which = JobFilter(state=state, newest_first=newest_first)
            first = await queue.page(which, limit=40)
            second = await queue.page(which, limit=40, cursor=first.cursor)
            await queue.page(which, limit=40, cursor=second.cursor)
            assert len(first.jobs) == len(second.jobs) == 40
        costs.append(calls(server.client) - before)
    assert costs[0] == costs[1]
    assert not {name for name in costs[1] if "scan" in name or "keys" in name}


@pytest.mark.parametrize("state", STATES)
async def test_a_search_reads_as_many_records_of_a_long_queue_as_of_a_longer_one(
    state: JobState, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    reads = []
    for count in (600, 1_200):
        server.client.flushall()
        fill(server.client, state, count)
        queue = make_queue(redis_url)
        await queue.page(JobFilter(state=state, task="other"))
        before = calls(server.client)
        page = await queue.page(JobFilter(state=state, task="other"))
        reads.append((calls(server.client) - before)["cmdstat_get"])
        assert (page.jobs, page.cursor is None) == ([], False)
    assert reads[0] == reads[1] <= 520


@pytest.mark.parametrize(("action", "state"), [("retry", "failed"), ("abort", "queued"), ("delete", "complete")])
async def test_a_step_of_an_operation_costs_the_same_however_many_there_are(
    action: BulkAction, state: JobState, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    costs = []
    for count in (200, 1_500):
        server.client.flushall()
        fill(server.client, state, count)
        queue = make_queue(redis_url)
        step = await queue.bulk(action, JobFilter(state=state), limit=20)
        before = calls(server.client)
        step = await queue.bulk(action, JobFilter(state=state), limit=20, cursor=step.cursor)
        costs.append(sum((calls(server.client) - before).values()))
        assert step.done == 20
    assert costs[0] == costs[1]


async def test_counting_costs_the_same_however_many_there_are(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    costs = []
    for count in (200, 700):
        server.client.flushall()
        for state in STATES:
            if state != "retrying":
                fill(server.client, state, count)
        queue = make_queue(redis_url)
        await queue.counts()
        before = calls(server.client)
        await queue.counts()
        costs.append(sum((calls(server.client) - before).values()))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_place_between_equal_moments_is_found_byte_by_byte(
    newest_first: bool, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    keys = ["B", "a", "Z", "z", "ä", "Ä", "-", "_", "a-", "a_", "aa", "ab", "é", "e", "~", "\U0001f600", "0", "00"]
    for key in keys:
        server.client.set(LAYOUT.job_id(key), document(key, status="complete"))
        server.client.zadd(LAYOUT.key("complete"), {LAYOUT.job_id(key): 5})
    queue, found, cursor = make_queue(redis_url), [], None
    while True:
        page = await queue.page(JobFilter(state="complete", newest_first=newest_first), limit=1, cursor=cursor)
        for job in page.jobs:
            found.append(job.key)
            server.client.zrem(LAYOUT.key("complete"), job.id)  # the place has to be found without it
        if (cursor := page.cursor) is None:
            break
    assert found == sorted(keys, key=str.encode, reverse=newest_first)


@pytest.mark.parametrize("state", ["complete", "failed", "aborted", "quarantined"])
async def test_entries_whose_records_have_expired_are_neither_counted_nor_listed(
    state: JobState, redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    fill(server.client, state, 1_500)
    for number in (*range(700), 900, 1_400, 1_499):
        server.client.delete(LAYOUT.job_id(f"k{number:06}"))
    queue = make_queue(redis_url)
    left = 1_500 - 703
    assert left <= (await queue.counts())[state] <= left + 3
    found, cursor = 0, None
    while True:
        page = await queue.page(JobFilter(state=state), limit=400, cursor=cursor)
        found += len(page.jobs)
        if (cursor := page.cursor) is None:
            break
    assert found == left
    assert (await queue.counts())[state] == left
    assert server.client.zcard(LAYOUT.key(state)) == left


async def test_counts_find_expired_records_among_living_ones_in_the_end(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    fill(server.client, "failed", 1_000)
    server.client.delete(*(LAYOUT.job_id(f"k{number:06}") for number in range(500, 600)))
    queue = make_queue(redis_url)
    for _ in range(11):
        counts = await queue.counts()
    assert counts["failed"] == 900


async def test_nothing_is_kept_of_retries_where_there_are_none(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    queue = await opened(make_queue(redis_url))
    await queue.submit_many(specs("complete", "failed", "retried"))
    for job in await take(queue, 3):
        how = {"complete": Settlement.COMPLETE, "failed": Settlement.FAILED}.get(job.key, Settlement.RETRY)
        await queue.settle(job, how)
    assert not server.client.exists(LAYOUT.key("retrying"))
    (job,) = await take(queue, 1)
    await queue.settle(job, Settlement.RETRY, delay=0.05)
    assert server.client.zcard(LAYOUT.key("retrying")) == 1
    await take(queue, 1)
    assert not server.client.exists(LAYOUT.key("retrying"))


async def test_the_keys_of_other_applications_are_left_alone(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    client = server.client
    client.mset({"theirs": "x", "saq:job:other:k": "y", "saq:job:default2:k": "z"})
    client.rpush("saq:other:queued", "saq:job:other:k")
    theirs = set(client.keys())
    for state in STATES:
        fill(client, state, 30)
    queue = make_queue(redis_url)
    for state in STATES:
        await queue.page(JobFilter(state=state, task="x"))
    for state in ("complete", "failed", "aborted", "quarantined"):
        await queue.bulk("delete", JobFilter(state=state))
    await queue.purge()
    assert theirs <= set(client.keys())
    assert all(key.startswith((b"saq:default:", b"saq:job:default:")) for key in set(client.keys()) - theirs)


async def test_an_idle_worker_of_a_paused_queue_takes_nothing_and_asks_seldom(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    queue, app = await opened(make_queue(redis_url)), make_queue(redis_url)
    claims = asyncio.create_task(take(queue, 1))
    await eventually(lambda: server.client.info("clients")["blocked_clients"] == 1)
    await app.pause()
    await eventually(lambda: server.client.info("clients")["blocked_clients"] == 0)
    await app.submit_many(specs("k"))
    before = calls(server.client)
    await asyncio.sleep(1.5)
    asked = calls(server.client) - before
    assert asked["cmdstat_blmove"] == 0
    assert asked["cmdstat_evalsha"] < 50
    assert server.client.lrange(LAYOUT.queued, 0, -1) == [LAYOUT.job_id("k").encode()]
    await app.resume()
    assert [job.key for job in await claims] == ["k"]


async def test_a_pause_that_is_missed_is_heeded_and_so_is_its_end(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    queue = await opened(make_queue(redis_url))
    server.client.set(LAYOUT.key("paused"), "by hand")  # nobody is told
    await queue.submit_many(specs("k"))
    assert await queue.claim(1) == []
    pause = await queue.paused()
    assert pause is not None
    assert pause.by == ""
    server.client.delete(LAYOUT.key("paused"))
    assert [job.key for job in await take(queue, 1)] == ["k"]


async def test_a_pause_survives_the_restart_of_the_server(
    start_server: Callable[..., Server], make_queue: MakeQueue
) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    queue = make_queue(server.url)
    await queue.pause(by="ops")
    server.kill()
    server.start()
    later = make_queue(server.url)
    pause = await later.paused()
    assert pause is not None
    assert pause.by == "ops"
    await later.submit_many(specs("k"))
    assert await (await opened(later)).claim(1) == []


async def test_records_of_a_huge_size_are_listed_in_parts(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    for number in range(60):
        key = f"k{number:02}"
        server.client.set(LAYOUT.job_id(key), document(key, status="complete", result="x" * 200_000))
        server.client.zadd(LAYOUT.key("complete"), {LAYOUT.job_id(key): number + 1})
    queue = make_queue(redis_url)
    page = await queue.page(JobFilter(state="complete"), limit=50)
    assert [job.key for job in page.jobs] == [f"k{number:02}" for number in range(59, 9, -1)]


async def test_a_job_that_nobody_could_read_is_not_run_again(
    redis_url: str, make_queue: MakeQueue, server: Server
) -> None:
    queue = await opened(make_queue(redis_url))
    server.client.set(LAYOUT.job_id("k"), "{nonsense}")
    server.client.zadd(LAYOUT.incomplete, {LAYOUT.job_id("k"): 0})
    server.client.rpush(LAYOUT.queued, LAYOUT.job_id("k"))
    await queue.claim(1)

    async def quarantined() -> bool:
        return (await queue.counts())["quarantined"] == 1

    await eventually(quarantined)
    assert not await queue.rerun("k")
    assert (await queue.bulk("retry", JobFilter(state="quarantined"))).done == 0
    assert await queue.delete("k")


async def test_minutes_expire_by_themselves(redis_url: str, make_queue: MakeQueue, server: Server) -> None:
    queue = make_queue(redis_url)
    await queue.add_minutes([Minute(datetime.now(UTC), {"noop": TaskMinute(complete=1)})])
    (key,) = server.client.keys(LAYOUT.key("m:*"))
    assert 86_400 - 120 < server.client.ttl(key) < 86_400 + 240
