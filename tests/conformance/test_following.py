"""What a running job says and has around it, on each broker: progress, log, events, waits, middleware, resources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import Litestar
from saq.types import Context

from litestar_tasks import CallNext, CurrentJob, Event, JobHandle, JobSpec, QueueConfig, Registry, correlation_id, track
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.worker.dependencies import Dependencies
from litestar_tasks.worker.worker import Worker
from tests.conformance.hands import MakeQueue, record


@pytest.fixture
def registry() -> Registry:
    return Registry("conformance", allow_local=True)


@asynccontextmanager
async def working(
    queue: TaskQueue, registry: Registry, *, concurrency: int = 5, **resources: object
) -> AsyncGenerator[None, None]:
    """A worker that runs the queue's jobs until the block ends."""
    config = QueueConfig(name=queue.label, concurrency=concurrency, shutdown_grace_period_s=0)
    worker = Worker(queue, config, registry, Dependencies(Litestar(logging_config=None), {}, resources))
    await worker.open()
    running = asyncio.create_task(worker.start())
    try:
        yield
    finally:
        await worker.stop()
        await running


async def test_a_job_is_followed_from_its_start_over_its_progress_to_its_end(
    make: MakeQueue, registry: Registry
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    @registry.task
    async def resize(job: CurrentJob) -> str:
        await gates[0].wait()
        await job.set_progress(0.4, "resizing")
        await gates[1].wait()
        return "done"

    queue = await make(registry=registry)
    job = await queue.enqueue("resize")
    seen: list[Event] = []
    async with working(queue, registry), asyncio.timeout(60):
        async for event in JobHandle(queue, job.key).events():
            seen.append(event)
            if event.status == "active":
                gates[event.message is not None].set()
    assert seen[0].status in ("queued", "active")
    assert seen[-2:] == [
        Event(status="active", progress=0.4, message="resizing", attempt=1),
        Event(status="complete", progress=1.0, message="resizing", attempt=1),
    ]


async def test_another_process_follows_a_job_that_runs_elsewhere(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def work() -> None: ...

    queue = await make(registry=registry)
    if "shared" not in queue.capabilities:
        pytest.skip("no other process can see it")
    other = await make(registry=registry)
    job = await queue.enqueue("work")
    events = JobHandle(other, job.key).events()
    assert (await anext(events)).status == "queued"
    async with working(queue, registry), asyncio.timeout(60):
        assert [event.status async for event in events][-1] == "complete"


async def test_the_record_keeps_the_log_and_the_last_progress(make: MakeQueue, registry: Registry) -> None:
    @registry.task(max_attempts=1)
    async def read(job: CurrentJob) -> None:
        async for n in track(range(150), job):
            await job.log(f"row {n}")
        await job.set_progress(0.9)
        raise ValueError("stop")

    queue = await make(registry=registry)
    job = await queue.enqueue("read")
    async with working(queue, registry):
        await queue.wait(job.key, 60)
    handle = JobHandle[Any](queue, job.key)
    assert [line.text for line in await handle.logs()] == [f"row {n}" for n in range(50, 150)]
    assert await handle.progress() == 0.9


async def test_a_task_that_waits_for_a_job_of_its_queue_frees_its_place(make: MakeQueue, registry: Registry) -> None:
    @registry.task
    async def countdown(ctx: Context, *, n: int) -> int:
        if not n:
            return 0
        queue: Any = ctx["queue"]
        job = await queue.enqueue("countdown", n=n - 1)
        below: int = await JobHandle(queue, job.key).result(timeout=60)
        return 1 + below

    queue = await make(registry=registry)
    async with working(queue, registry, concurrency=1):
        job = await queue.enqueue("countdown", n=5)
        ended = await queue.wait(job.key, 60)
    assert ended is not None
    assert ended.result == 5


async def test_middleware_hooks_and_resources_surround_an_attempt(make: MakeQueue) -> None:
    def sign(spec: JobSpec) -> None:
        spec.meta = {**spec.meta, "user": 7}

    async def add(job: CurrentJob, call_next: CallNext) -> Any:
        return {**await call_next(), "user": job.meta["user"], "request": job.correlation_id}

    registry = Registry("conformance", allow_local=True, middleware=[add], on_enqueue=[sign])

    @registry.task(dependencies={"url": lambda host: f"https://{host}"})
    async def fetch(ctx: Context, *, url: str) -> dict[str, Any]:
        context: Any = ctx
        return {"url": url, "host": context["host"], "inner": correlation_id.get()}

    queue = await make(registry=registry)
    before = correlation_id.set("r-1")
    job = await queue.enqueue("fetch")
    correlation_id.reset(before)
    async with working(queue, registry, host="example.org"):
        ended = await queue.wait(job.key, 60)
    assert ended is not None
    assert ended.result == {
        "url": "https://example.org",
        "host": "example.org",
        "inner": "r-1",
        "user": 7,
        "request": "r-1",
    }, ended.error
    assert (await record(queue, job.key)).meta["correlation_id"] == "r-1"
