"""What a task says of itself, and what its options say of it, holds on each broker."""

from __future__ import annotations

import asyncio
import time

import pytest
from saq.job import Job

from litestar_tasks import (
    Constant,
    CurrentJob,
    Discard,
    JobDiscardedError,
    JobFailedError,
    JobHandle,
    PayloadError,
    Registry,
    Retry,
    Snooze,
)
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.history import history
from tests.conformance.hands import MakeQueue, eventually, listed, needs, record, stands
from tests.conformance.test_working import working


@pytest.fixture
def registry() -> Registry:
    return Registry("conformance", allow_local=True, backoff=Constant(0.01))


def handle(queue: TaskQueue, job: Job) -> JobHandle[object]:
    return JobHandle(queue, job.key)


async def test_a_task_asks_for_a_retry_until_no_attempt_is_left(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=3)
    async def busy() -> None:
        raise Retry("the printer is busy", delay=0.01)

    queue = await make(registry=registry)
    async with working(queue, registry) as worker:
        job = await queue.enqueue("busy")
        outcome = await handle(queue, job).outcome(timeout=30)
        assert outcome.worker == worker.id
    assert (outcome.status, outcome.error_type, outcome.attempts, outcome.queue) == ("failed", "Retry", 3, queue.label)
    assert "no attempt is left" in (outcome.error or "")
    entries = history(await record(queue, job.key))
    assert [(one["outcome"], one["error_type"]) for one in entries] == [("retry", "Retry")] * 2
    assert all("the printer is busy" in one["traceback"] for one in entries)


async def test_a_retry_waits_as_long_as_the_task_says(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=2)
    async def later() -> None:
        raise Retry(delay=3600)

    @registry.task(max_attempts=2, backoff=lambda attempt: 3600 * attempt)
    async def broken() -> None:
        raise ValueError

    queue = await make(registry=registry)
    async with working(queue, registry):
        for name in ("later", "broken"):
            job = await queue.enqueue(name)
            await stands(queue, job.key, "scheduled")
            assert (await record(queue, job.key)).scheduled - time.time() > 3000


async def test_a_snooze_costs_no_attempt(make: MakeQueue, registry: Registry) -> None:
    runs: list[int] = []

    @registry.task
    async def patient(job: CurrentJob) -> int:
        runs.append(job.attempt)
        if len(runs) < 4:
            raise Snooze("not yet", delay=0.01)
        return len(runs)

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("patient")
        outcome = await handle(queue, job).outcome(timeout=30)
    assert (outcome.result, outcome.attempts, runs) == (4, 1, [1, 1, 1, 1])
    (entry,) = history(await record(queue, job.key))
    assert (entry["outcome"], entry["error"], entry["times"]) == ("snooze", "not yet", 3)


async def test_a_discarded_job_ends_as_aborted_at_once(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=5)
    async def pointless() -> None:
        raise Discard("the user has gone")

    @registry.task(max_attempts=5, discard_on=LookupError)
    async def missing() -> None:
        raise KeyError("user 7")

    queue = await make(registry=registry)
    async with working(queue, registry):
        for name, reason in (("pointless", "the user has gone"), ("missing", "KeyError: 'user 7'")):
            job = await queue.enqueue(name)
            with pytest.raises(JobDiscardedError, match=reason):
                await handle(queue, job).result(timeout=30)
            assert (await handle(queue, job).outcome()).attempts == 1


@needs("listing")
async def test_discarded_jobs_are_listed_with_the_aborted_ones(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def pointless() -> None:
        raise Discard

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("pointless")
        await handle(queue, job).outcome(timeout=30)
    assert await listed(queue, "aborted") == [job.key]


async def test_an_exception_outside_of_retry_on_fails_the_job_at_once(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=5, retry_on=ConnectionError)
    async def strict() -> None:
        raise ValueError("password=hunter2")

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("strict")
        with pytest.raises(JobFailedError, match="ValueError") as caught:
            await handle(queue, job).result(timeout=30)
    assert caught.value.error_type == "ValueError"
    assert "hunter2" not in caught.value.error
    assert (await record(queue, job.key)).attempts == 1


async def test_a_job_that_nobody_started_in_time_is_discarded(make: MakeQueue, registry: Registry) -> None:
    ran: list[int] = []

    @registry.task(expires=0.05)
    async def notify(*, n: int) -> None:
        ran.append(n)

    queue = await make(registry=registry)
    late = await queue.enqueue("notify", n=1)
    delayed = (await queue.submit(notify.spec((), {"n": 2}, {"expires": 3600.0, "delay": 0.1}))).job
    moment = late.meta["expires"]

    async def over() -> bool:
        return time.time() > moment

    await eventually(over)
    async with working(queue, registry):
        outcome = await handle(queue, late).outcome(timeout=30)
        assert (await handle(queue, delayed).outcome(timeout=30)).success
    assert (outcome.status, outcome.reason, outcome.attempts, outcome.started) == ("aborted", "expired", 0, None)
    assert ran == [2]


async def test_what_is_too_large_is_refused_or_fails_the_job_once(make: MakeQueue, registry: Registry) -> None:
    runs: list[int] = []

    @registry.task(max_attempts=3, payload_limit=1000, result_limit=1000)
    async def grow(*, text: str, times: int) -> str:
        runs.append(times)
        return text * times

    queue = await make(registry=registry)
    with pytest.raises(PayloadError, match=r"1,0\d\d bytes as JSON, and 1,000 are allowed"):
        await queue.enqueue("grow", text="x" * 1000, times=1)
    async with working(queue, registry):
        job = await queue.enqueue("grow", text="x" * 500, times=3)
        outcome = await handle(queue, job).outcome(timeout=30)
    assert (outcome.status, outcome.reason, runs) == ("failed", "result", [3])


async def test_a_result_that_does_not_fit_fails_the_job_once(make: MakeQueue, registry: Registry) -> None:
    runs: list[str] = []

    @registry.task(max_attempts=3)
    async def number() -> int:
        runs.append("number")
        return "seven"  # type: ignore[return-value]  # the mistake under test

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("number")
        outcome = await handle(queue, job).outcome(timeout=30)
    assert (outcome.status, outcome.reason, runs) == ("failed", "result", ["number"])


async def test_sync_tasks_and_timeouts_go_the_same_ways(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=2)
    def threaded(job: CurrentJob) -> int:
        if job.attempt == 1:
            raise Retry(delay=0.01)
        return job.attempt

    @registry.task(max_attempts=2, timeout=0.05)
    async def slow(job: CurrentJob) -> int:
        if job.attempt == 1:
            await asyncio.sleep(3600)
        return job.attempt

    queue = await make(registry=registry)
    async with working(queue, registry):
        for name in ("threaded", "slow"):
            job = await queue.enqueue(name)
            assert (await handle(queue, job).outcome(timeout=30)).result == 2
        (entry,) = history(await record(queue, job.key))
    assert (entry["outcome"], entry["error_type"]) == ("retry", "TimeoutError")
