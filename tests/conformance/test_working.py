"""The worker itself on each broker: tasks that run, fail, wait, and are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from litestar import Litestar

from litestar_tasks import Constant, CurrentJob, Exclusive, JobError, JobHandle, QueueConfig, Registry
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.worker.dependencies import Dependencies
from litestar_tasks.worker.worker import Worker
from tests.conformance.hands import MakeQueue, act, enqueue, eventually, listed, needs, record, stands


@pytest.fixture
def registry() -> Registry:
    return Registry("conformance", allow_local=True, backoff=Constant(0.01))


@asynccontextmanager
async def working(queue: TaskQueue, registry: Registry, *, concurrency: int = 5) -> AsyncGenerator[Worker, None]:
    """A worker that runs the queue's jobs until the block ends."""
    config = QueueConfig(name=queue.label, concurrency=concurrency, shutdown_grace_period_s=0)
    worker = Worker(queue, config, registry, Dependencies(Litestar(logging_config=None), {}))
    await worker.open()
    running = asyncio.create_task(worker.start())
    try:
        yield worker
    finally:
        await worker.stop()
        await running


def call(registry: Registry, name: str, **kwargs: Any) -> JobSpec:
    return registry.get_task(name).spec((), kwargs)


async def test_a_task_runs_and_its_result_comes_back(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def double(*, n: int) -> dict[str, int]:
        return {"n": 2 * n}

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("double", n=21)
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert (ended.status.value, ended.result, ended.attempts, ended.progress) == ("complete", {"n": 42}, 1, 1.0)


async def test_hundreds_of_jobs_run_once_each(make: MakeQueue, registry: Registry) -> None:
    seen: list[int] = []

    @registry.task
    async def note(*, n: int) -> None:
        seen.append(n)

    queue = await make(registry=registry)
    await queue.submit_many([call(registry, "note", n=n) for n in range(400)])
    async with working(queue, registry, concurrency=20):

        async def done() -> bool:
            return (await queue.counts())["complete"] == 400

        await eventually(done)
    assert sorted(seen) == list(range(400))


@needs("leases")  # in memory, the broker's clock is the worker's
@pytest.mark.parametrize("shift", [3_600, -3_600])
async def test_a_worker_whose_clock_is_wrong_goes_by_the_brokers(
    make: MakeQueue, registry: Registry, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    @registry.task(max_attempts=2)
    async def flaky(job: CurrentJob) -> int:
        if job.attempt < 2:
            raise ValueError
        return job.attempt

    queue = await make(registry=registry)
    first = await queue.submit(registry.get_task("flaky").spec((), {}, {"expires": 600.0}))
    await queue.submit(JobSpec(task="of_a_newer_release", kwargs={}, key="newer"))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    async with working(queue, registry):
        ended = await queue.wait(first.job.key, 30)

        async def put_back() -> bool:
            newer = await record(queue, "newer")
            assert newer.error is None
            return newer.scheduled > 0

        await eventually(put_back)
    assert ended is not None
    assert (ended.status.value, ended.result) == ("complete", 2)
    now = real() * 1000
    assert now - 60_000 < ended.queued <= ended.started <= ended.completed < now + 60_000
    (before,) = ended.meta["history"]
    assert before["started"] <= before["completed"] <= ended.started


async def test_an_attempt_that_ends_in_a_retry_is_remembered(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=3)
    async def flaky(job: CurrentJob) -> int:
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return job.attempt

    queue = await make(registry=registry)
    async with working(queue, registry) as worker:
        job = await queue.enqueue("flaky")
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert ended.result == 3
    assert [(one["outcome"], one["error"], one["worker"]) for one in ended.meta["history"]] == [
        ("retry", "ValueError: attempt 1", worker.id),
        ("retry", "ValueError: attempt 2", worker.id),
    ]
    assert all(one["completed"] >= one["started"] > 0 for one in ended.meta["history"])


async def test_a_job_that_fails_for_good_is_run_again_by_an_operator(make: MakeQueue, registry: Registry) -> None:
    mended = False

    @registry.task(max_attempts=2)
    async def broken() -> str:
        if not mended:
            raise ValueError("broken")
        return "mended"

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("broken")
        await stands(queue, job.key, "failed")
        mended = True
        assert await act(queue, "retry", "failed", task="broken") == 1
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert (ended.result, ended.attempts) == ("mended", 1)
    assert [one["outcome"] for one in ended.meta["history"]] == ["retry", "failed"]


async def test_a_running_task_is_aborted(make: MakeQueue, registry: Registry) -> None:
    cleaned: list[str] = []

    @registry.task
    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.append("up")

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("endless")
        await stands(queue, job.key, "active")
        assert await queue.cancel(job.key, "enough")
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert (ended.status.value, ended.error, cleaned) == ("aborted", "enough", ["up"])


async def test_a_worker_that_stops_hands_back_what_it_cannot_end(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def endless() -> None:
        await asyncio.sleep(3600)

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("endless")
        await stands(queue, job.key, "active")
    assert await queue.status(job.key) == "queued"
    assert (await record(queue, job.key)).attempts == 0


async def test_a_payload_that_does_not_fit_is_quarantined(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def strict(*, n: int) -> None:
        pass

    queue = await make(registry=registry)
    await enqueue(queue, "k", task="strict", kwargs={"n": "seven"})
    async with working(queue, registry):
        await stands(queue, "k", "failed")
    assert await listed(queue, "quarantined") == await listed(queue, "failed") == ["k"]


@needs("pause")
async def test_a_paused_worker_lets_running_tasks_end_and_starts_none(make: MakeQueue, registry: Registry) -> None:
    gate = asyncio.Event()

    @registry.task
    async def wait() -> None:
        await gate.wait()

    queue = await make(registry=registry)
    async with working(queue, registry, concurrency=2):
        first = await queue.enqueue("wait")
        await stands(queue, first.key, "active")
        await queue.pause()
        second = await queue.enqueue("wait")
        gate.set()
        await stands(queue, first.key, "complete")
        assert await queue.status(second.key) == "queued"
        await queue.resume()
        await stands(queue, second.key, "complete")


@needs("metrics")
async def test_attempts_are_counted_by_minute_and_task(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=2)
    async def flaky(job: CurrentJob) -> None:
        if job.attempt == 1:
            raise ValueError

    @registry.task
    async def broken() -> None:
        raise ValueError

    queue = await make(registry=registry)
    started = datetime.now(UTC)
    await queue.submit_many([call(registry, "flaky"), call(registry, "flaky"), call(registry, "broken")])
    async with working(queue, registry):

        async def done() -> bool:
            counts = await queue.counts()
            return (counts["complete"], counts["failed"]) == (2, 1)

        await eventually(done)
    found = await queue.minutes(started, datetime.now(UTC) + timedelta(minutes=1))
    totals = {
        (name, field): sum(getattr(one.tasks[name], field) for one in found if name in one.tasks)
        for name in ("flaky", "broken")
        for field in ("complete", "failed", "aborted", "retried")
    }
    assert {key: count for key, count in totals.items() if count} == {
        ("flaky", "complete"): 2,
        ("flaky", "retried"): 2,
        ("broken", "failed"): 1,
    }
    for field in ("waited", "ran"):
        assert sum(sum(getattr(task, field)) for one in found for task in one.tasks.values()) == 5


@needs("listing")
async def test_a_tag_of_the_task_or_the_call_finds_its_jobs(make: MakeQueue, registry: Registry) -> None:
    @registry.task(tag="billing")
    async def charge() -> None:
        pass

    queue = await make(registry=registry)
    await queue.submit(charge.spec((), {}))
    await queue.submit(charge.spec((), {}, {"tag": "customer-7"}))
    async with working(queue, registry):

        async def done() -> bool:
            return (await queue.counts())["complete"] == 2

        await eventually(done)
    assert len(await listed(queue, "complete", tag="billing")) == 1
    assert len(await listed(queue, "complete", tag="customer-7")) == 1


async def test_sync_tasks_run_in_threads(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    def add(*, a: int, b: int) -> int:
        return a + b

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("add", a=1, b=2)
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert ended.result == 3


async def test_a_task_over_its_time_fails_and_says_so(make: MakeQueue, registry: Registry) -> None:
    @registry.task(timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(3600)

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("slow")
        ended = await queue.wait(job.key, 30)
    assert ended is not None
    assert "exceeded its timeout" in (ended.error or "")


async def test_tasks_of_which_one_runs_at_a_time_take_turns(make: MakeQueue, registry: Registry) -> None:
    running: list[int] = []
    most = {1: 0, 2: 0}
    order: list[int] = []

    @registry.task(exclusive=Exclusive(by="customer"), max_attempts=2)
    async def bill(*, customer: int, number: int) -> None:
        order.append(number)
        running.append(customer)
        most[customer] = max(most[customer], running.count(customer))
        await asyncio.sleep(0.002)
        running.remove(customer)
        if number % 5 == 0 and order.count(number) == 1:
            raise ValueError("again")

    queue = await make(registry=registry)
    async with working(queue, registry):
        specs = [call(registry, "bill", customer=number % 2 + 1, number=number) for number in range(30)]
        submissions = await queue.submit_many(specs)
        for submission in submissions:
            ended = await queue.wait(submission.job.key, 30)
            assert ended is not None
            assert ended.status.value == "complete"
    assert most == {1: 1, 2: 1}
    first_runs = list(dict.fromkeys(order))
    assert [number for number in first_runs if number % 2] == list(range(1, 30, 2))


async def test_a_task_that_waits_for_one_it_excludes_is_refused(make: MakeQueue, registry: Registry) -> None:
    @registry.task(exclusive=True)
    async def step(*, number: int) -> str:
        if not number:
            return "done"
        submission = await queue.submit(call(registry, "step", number=number - 1))
        try:
            return str(await JobHandle(queue, submission.job.key).result())
        except JobError as error:
            return str(error)

    queue = await make(registry=registry)
    async with working(queue, registry):
        job = await queue.enqueue("step", number=1)
        ended = await queue.wait(job.key, 30)
        assert ended is not None
        assert "is of those of which one runs at a time, and so is the task that waits for it" in ended.result
        await eventually(lambda: _is_empty(queue))


async def _is_empty(queue: TaskQueue) -> bool:
    return not await queue.count("incomplete")


async def test_a_task_is_not_debounced_into_its_own_run(make: MakeQueue, registry: Registry) -> None:
    seen: list[int] = []

    @registry.task(debounce=0.1)
    async def index(*, version: int) -> None:
        seen.append(version)
        if version == 2:
            await queue.submit(call(registry, "index", version=3))

    queue = await make(registry=registry)
    async with working(queue, registry):
        keys = {(await queue.submit(call(registry, "index", version=version))).job.key for version in (1, 2)}
        assert len(keys) == 1
        await eventually(lambda: _is_empty(queue))
    assert seen == [2, 3]
