"""A job as its caller sees it: where it stands, how it ended, and what can be done about it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from litestar import Litestar, post
from litestar.params import FromPath
from litestar.testing import AsyncTestClient
from saq.types import Context

from litestar_tasks import (
    CurrentJob,
    Discard,
    JobAbortedError,
    JobDiscardedError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    Registry,
    TasksConfig,
    TasksPlugin,
    enqueue_many,
)
from tests.features.conftest import Broker, Run


async def test_every_end_has_its_error_and_its_outcome(run: Run, registry: Registry) -> None:
    begun = asyncio.Event()

    @registry.task
    async def work(how: str) -> int:
        if how == "fail":
            raise ValueError("no luck")
        if how == "discard":
            raise Discard("pointless")
        if how == "wait":
            begun.set()
            await asyncio.sleep(60)
        return 7

    async with run(registry):
        done = await work.enqueue("return")
        assert await done.result(timeout=20) == 7
        outcome = await done.outcome(timeout=0)
        assert (outcome.success, outcome.status, outcome.result, outcome.error) == (True, "complete", 7, None)
        assert (outcome.attempts, outcome.queue, outcome.id) == (1, "default", done.id)
        assert outcome.worker is not None
        assert outcome.started is not None
        assert outcome.ended is not None
        assert outcome.started <= outcome.ended <= datetime.now(UTC) + timedelta(seconds=5)
        assert await done.abort() is False

        failed = await work.enqueue("fail")
        with pytest.raises(JobFailedError, match="ValueError: no luck") as error:
            await failed.result(timeout=20)
        assert "in work" in error.value.error, "the worker's traceback"
        assert (await failed.outcome()).error_type == error.value.error_type == "ValueError"

        discarded = await work.enqueue("discard")
        with pytest.raises(JobDiscardedError, match="pointless"):
            await discarded.result(timeout=20)
        assert (await discarded.outcome()).reason == "discarded"

        running = await work.enqueue("wait")
        await asyncio.wait_for(begun.wait(), 20)
        assert await running.status() == "active"
        with pytest.raises(TimeoutError):
            await running.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            await running.outcome(timeout=0)
        assert await running.abort("not needed") is True
        with pytest.raises(JobAbortedError, match="not needed") as aborted:
            await running.result(timeout=20)
        assert not isinstance(aborted.value, JobDiscardedError)

        waiting = await work.using(delay=60).enqueue("return")
        assert await waiting.status() == "scheduled"
        assert await waiting.abort() is True
        assert (await waiting.outcome(timeout=20)).status == "aborted"


async def test_a_handle_is_made_of_an_id(run: Run, broker: Broker, registry: Registry) -> None:
    @registry.task(queue="others")
    async def work(n: int) -> dict[int, int]:
        return {n: n}

    async with run(registry):
        job = await work.enqueue(1)
        assert await work.job(job.id).result(timeout=20) == {1: 1}
        assert await registry.job(job.id).result() == {"1": 1}
        unknown = work.job(job.id[:-1] + "x")
        for look in (unknown.status(), unknown.result(timeout=5), unknown.outcome(timeout=5), unknown.progress()):
            with pytest.raises(JobNotFoundError):
                await look
        assert await unknown.abort() is False
        with pytest.raises(JobNotFoundError):
            registry.job("saq:job:elsewhere:1")
    if broker.url != "memory://":
        async with run(registry, worker=False):
            events = [event async for event in work.job(job.id).events()]
            assert [(event.status, event.ended) for event in events] == [("complete", True)]
            assert await work.job(job.id).result(timeout=0) == {1: 1}


async def test_events_tell_a_job_from_its_wait_to_its_end(run: Run, registry: Registry) -> None:
    gate = asyncio.Event()

    @registry.task(max_attempts=2)
    async def work(job: CurrentJob) -> None:
        await job.set_progress(0.5, "half")
        await gate.wait()
        if job.attempt == 1:
            raise ValueError("again")

    async with run(registry):
        job = await registry.get_task("work").using(delay=0.3).enqueue()
        seen = []
        async with asyncio.timeout(40):
            async for event in job.events():
                seen.append(event)
                if event.message == "half":
                    gate.set()
        assert seen[0].status == "scheduled"
        assert "active" in [event.status for event in seen]
        assert (seen[-1].status, seen[-1].attempt, seen[-1].ended) == ("complete", 2, True)


async def test_many_calls_are_enqueued_in_order_with_a_handle_each(run: Run, registry: Registry) -> None:
    @registry.task
    async def number(n: int) -> int:
        return n

    @registry.task(queue="others")
    def text(n: int) -> str:
        return str(n)

    async with run(registry):
        calls: list[Any] = [number.bind(n) if n % 2 else text.bind(n) for n in range(300)]
        calls.append(number.bind(300).using(key="k"))
        calls.append(number.bind(301).using(key="k"))
        jobs = await enqueue_many(calls)
        assert [await job.result(timeout=60) for job in jobs[:4]] == ["0", 1, "2", 3]
        assert [await job.result(timeout=60) for job in jobs[298:]] == ["298", 299, 300, 300]
        assert [job.deduplicated for job in jobs[-2:]] == [False, True]
        assert await enqueue_many([]) == []


async def test_threads_enqueue_from_sync_routes_and_sync_tasks(broker: Broker, registry: Registry, run: Run) -> None:
    @registry.task
    async def child(n: int) -> int:
        return n + 1

    @registry.task
    def parent(ctx: Context, n: int) -> str:
        return child.bind(n).using(priority=5).enqueue_sync().id

    @post("/{n:int}", sync_to_thread=True)
    def route(n: FromPath[int]) -> dict[str, str]:
        return {"job_id": child.bind(n).enqueue_sync().id}

    async with run(registry):
        inner = await (await parent.enqueue(1)).result(timeout=20)
        assert await child.job(inner).result(timeout=20) == 2
        with pytest.raises(RuntimeError, match="would block the event loop"):
            child.bind(1).enqueue_sync()

    settings = TasksConfig(
        registry=registry, broker_url=broker.url, in_process_worker=True, dashboard=None, namespace="routes"
    )
    async with AsyncTestClient(Litestar([route], plugins=[TasksPlugin(settings)], logging_config=None)) as client:
        answer = await client.post("/5")
        assert await child.job(answer.json()["job_id"]).result(timeout=20) == 6


async def test_waiting_for_a_job_of_ones_own_queue_cannot_block_the_worker(run: Run, registry: Registry) -> None:
    @registry.task
    async def leaf(n: int) -> int:
        return n

    @registry.task
    async def tree(depth: int) -> int:
        if not depth:
            return await (await leaf.enqueue(1)).result()
        jobs = await enqueue_many([tree.bind(depth - 1), tree.bind(depth - 1)])
        return sum([await job.result() for job in jobs])

    @registry.task
    async def of_itself(job: CurrentJob) -> None:
        await job.result()

    configs = registry.queue_configs(default={"concurrency": 1})
    async with run(registry, queue_configs=configs):
        assert await (await tree.enqueue(3)).result(timeout=60) == 8
        with pytest.raises(JobFailedError) as refused:
            await (await registry.get_task("of_itself").enqueue()).result(timeout=20)
        assert refused.value.error_type == JobError.__name__
        assert "waits for its own end" in refused.value.error
