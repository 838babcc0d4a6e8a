"""Following a job, and waiting for one within another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from litestar import Litestar

from litestar_tasks import (
    INJECTED,
    CurrentJob,
    Event,
    JobFailedError,
    JobHandle,
    JobNotFoundError,
    Registry,
    TasksConfig,
    TasksPlugin,
)
from litestar_tasks.worker import seats


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@asynccontextmanager
async def running(registry: Registry, *, concurrency: int = 10, worker: bool = True) -> AsyncGenerator[None, None]:
    config = TasksConfig(
        registry=registry,
        broker_url="memory://",
        dashboard=None,
        in_process_worker=worker,
        queue_configs=registry.queue_configs(
            default={"concurrency": concurrency, "shutdown_grace_period_s": 1}, other={"concurrency": 1}
        ),
    )
    async with Litestar(plugins=[TasksPlugin(config)], logging_config=None).lifespan():
        yield


class TestEvents:
    async def test_they_begin_with_the_present_and_end_with_the_end(self, registry: Registry) -> None:
        steps: asyncio.Queue[float | None] = asyncio.Queue()

        @registry.task
        async def work(*, job: CurrentJob = INJECTED) -> None:
            while (step := await steps.get()) is not None:
                await job.set_progress(step, f"at {step}")

        async with running(registry):
            job = await work.enqueue()
            seen: list[Event] = []
            async with asyncio.timeout(20):
                async for event in job.events():
                    seen.append(event)
                    if event.status == "active" and event.progress == 0:
                        steps.put_nowait(0.5)
                    elif event.progress == 0.5:
                        steps.put_nowait(None)
        assert [event for event in seen if event.status != "queued"] == [
            Event(status="active", progress=0.0, message=None, attempt=1),
            Event(status="active", progress=0.5, message="at 0.5", attempt=1),
            Event(status="complete", progress=1.0, message="at 0.5", attempt=1),
        ]

    async def test_of_a_job_that_has_ended_there_is_one(self, registry: Registry) -> None:
        @registry.task
        async def work() -> None: ...

        async with running(registry):
            job = await work.enqueue()
            await job.result(timeout=20)
            assert [event.status async for event in registry.job(job.id).events()] == ["complete"]

    async def test_of_a_job_that_never_was_there_is_an_error(self, registry: Registry) -> None:
        @registry.task
        async def work() -> None: ...

        async with running(registry, worker=False):
            known = await work.enqueue()
            unknown = registry.job(known.id + "x")
            with pytest.raises(JobNotFoundError):
                await anext(unknown.events())

    async def test_a_retry_begins_with_no_progress_and_no_message(self, registry: Registry) -> None:
        @registry.task(max_attempts=2)
        async def flaky(*, job: CurrentJob = INJECTED) -> None:
            if job.attempt == 1:
                await job.set_progress(0.5, "half")
                raise ValueError

        async with running(registry):
            job = await flaky.enqueue()
            seen = [event async for event in job.events()]
        assert seen[-1] == Event(status="complete", progress=1.0, message=None, attempt=2)

    async def test_they_can_be_followed_from_a_thread_with_a_loop_of_its_own(self, registry: Registry) -> None:
        @registry.task
        async def work() -> None: ...

        async def follow(id: str) -> list[str]:
            return [event.status async for event in registry.job(id).events()]

        async with running(registry):
            job = await work.enqueue()
            seen = await asyncio.to_thread(lambda: asyncio.run(follow(job.id)))
        assert seen[-1] == "complete"


class TestWaitingInATask:
    async def test_a_chain_of_waits_needs_no_more_than_one_place(self, registry: Registry) -> None:
        now = most = 0

        @registry.task
        async def countdown(*, n: int) -> int:
            nonlocal now, most
            now += 1
            most = max(most, now)
            now -= 1
            if not n:
                return 0
            return 1 + await (await countdown.enqueue(n=n - 1)).result(timeout=20)

        async with running(registry, concurrency=1):
            assert await (await countdown.enqueue(n=20)).result(timeout=20) == 20
        assert most == 1

    async def test_who_has_waited_goes_on_before_new_jobs_and_never_beside_others(self, registry: Registry) -> None:
        working: set[str] = set()
        most = 0
        order: list[str] = []
        done = asyncio.Event()

        async def work(name: str) -> None:
            nonlocal most
            working.add(name)
            most = max(most, len(working))
            await asyncio.sleep(0.01)
            working.discard(name)

        @registry.task
        async def child() -> None:
            await work("child")
            order.append("child")

        @registry.task
        async def other(*, n: int) -> None:
            await work(f"other {n}")
            order.append("other")
            if order.count("other") == 5:
                done.set()

        @registry.task
        async def parent() -> None:
            job = await child.enqueue()
            for n in range(5):
                await other.enqueue(n=n)
            await job.result(timeout=20)
            await work("parent")
            order.append("parent")

        async with running(registry, concurrency=1):
            await (await parent.enqueue()).result(timeout=20)
            async with asyncio.timeout(20):
                await done.wait()
        assert most == 1
        assert order[0] == "child"
        assert order.index("parent") <= 3

    async def test_waiting_for_many_at_once_frees_one_place_only(self, registry: Registry) -> None:
        now = most = 0

        @registry.task
        async def child() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

        @registry.task
        async def parent() -> None:
            jobs: list[JobHandle[None]] = [await child.enqueue() for _ in range(6)]
            await asyncio.gather(*(job.result(timeout=20) for job in jobs))

        async with running(registry, concurrency=2):
            await (await parent.enqueue()).result(timeout=20)
        assert most == 2

    async def test_a_wait_that_times_out_takes_its_place_again(self, registry: Registry) -> None:
        gate = asyncio.Event()

        @registry.task
        async def long() -> None:
            await gate.wait()

        @registry.task
        async def impatient() -> str:
            job = await long.enqueue()
            try:
                await job.result(timeout=0.05)
            except TimeoutError:
                pass
            async with asyncio.timeout(20):
                try:
                    async with asyncio.timeout(0.05):
                        await job.result()
                except TimeoutError:
                    return "late"
            return "early"

        async with running(registry, concurrency=2):
            assert await (await impatient.enqueue()).result(timeout=20) == "late"
            gate.set()

    async def test_following_frees_the_place_too(self, registry: Registry) -> None:
        @registry.task
        async def child() -> None: ...

        @registry.task
        async def parent() -> list[str]:
            job = await child.enqueue()
            return [event.status async for event in job.events()]

        async with running(registry, concurrency=1):
            assert (await (await parent.enqueue()).result(timeout=20))[-1] == "complete"

    async def test_a_sync_task_is_refused_to_wait_for_its_own_queue(self, registry: Registry) -> None:
        @registry.task
        async def child() -> str:
            return "done"

        @registry.task
        def parent(*, queue: str) -> str:
            job = child.bind().using(queue=queue).enqueue_sync()

            async def wait() -> str:
                return await child.job(job.id).result(timeout=20)

            return asyncio.run(wait())

        async with running(registry, concurrency=1):
            with pytest.raises(JobFailedError, match="which stays taken meanwhile: it might never start"):
                await (await parent.enqueue(queue="default")).result(timeout=20)
            assert await (await parent.enqueue(queue="other")).result(timeout=20) == "done"

    async def test_too_many_that_wait_are_refused_with_the_remedy(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(seats, "_MOST_AWAY", 3)

        @registry.task
        async def endless() -> None:
            await (await endless.enqueue()).result()

        async with running(registry, concurrency=1):
            with pytest.raises(JobFailedError, match="3 tasks of this worker wait for other jobs, and no more can"):
                await (await endless.enqueue()).result(timeout=20)
