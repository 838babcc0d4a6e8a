"""What a running job says of itself: progress, a message, a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import Litestar
from saq.job import Job

from litestar_tasks import INJECTED, CurrentJob, JobFailedError, Registry, TasksConfig, TasksPlugin, track


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@asynccontextmanager
async def running(registry: Registry) -> AsyncGenerator[TasksPlugin, None]:
    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True))
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        yield plugin


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress of every write."""
    seen: list[float] = []
    update = Job.update

    async def note(self: Job, **kwargs: Any) -> None:
        seen.append(kwargs["progress"])
        await update(self, **kwargs)

    monkeypatch.setattr(Job, "update", note)
    return seen


async def test_a_thousand_steps_are_a_few_writes(registry: Registry, writes: list[float]) -> None:
    @registry.task
    async def busy(*, job: CurrentJob = INJECTED) -> None:
        for step in range(1000):
            await job.set_progress(step / 1000, f"step {step}")
            await job.log(f"line {step}")
        raise ValueError("enough")

    async with running(registry):
        job = await busy.enqueue()
        with pytest.raises(JobFailedError):
            await job.result(timeout=20)
        assert len(writes) < 100
        assert await job.progress() == 0.999
        assert [line.text for line in await job.logs()] == [f"line {step}" for step in range(900, 1000)]
        assert (await anext(job.events())).message == "step 999"


async def test_the_last_word_is_seen_while_the_task_is_silent(registry: Registry) -> None:
    gate = asyncio.Event()

    @registry.task
    async def quiet(*, job: CurrentJob = INJECTED) -> None:
        for step in range(4):
            await job.set_progress(step / 4)
        await gate.wait()

    async with running(registry):
        job = await quiet.enqueue()
        async with asyncio.timeout(20):
            async for event in job.events():
                if event.progress == 0.75:
                    break
        gate.set()
        await job.result(timeout=20)


async def test_a_broker_that_is_away_does_not_fail_the_task(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: Job, **kwargs: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(Job, "update", away)

    @registry.task
    async def work(*, job: CurrentJob = INJECTED) -> str:
        await job.set_progress(0.5)
        await job.log("half")
        return "done"

    async with running(registry):
        job = await work.enqueue()
        assert await job.result(timeout=20) == "done"
        assert [line.text for line in await job.logs()] == ["half"]


async def test_what_is_said_is_bounded(registry: Registry) -> None:
    @registry.task
    async def loud(*, job: CurrentJob = INJECTED) -> None:
        await job.set_progress(7, "x" * 5000)
        await job.log("x" * 5000)

    async with running(registry):
        job = await loud.enqueue()
        await job.result(timeout=20)
        assert len((await job.logs())[0].text) == 1000
        event = await anext(job.events())
        assert (event.progress, len(event.message or "")) == (1.0, 1000)


class TestTrack:
    @pytest.fixture(autouse=True)
    def no_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("litestar_tasks.current._EVERY", 0)

    async def test_it_reads_lists_and_async_iterators(self, registry: Registry, writes: list[float]) -> None:
        async def rows() -> AsyncIterator[int]:
            for n in range(4):
                yield n

        @registry.task
        async def read(*, job: CurrentJob = INJECTED) -> list[float]:
            seen = [await _written(writes) async for _ in track([1, 2], job)]
            return seen + [await _written(writes) async for _ in track(rows(), job, total=4)]

        async with running(registry):
            assert await (await read.enqueue()).result(timeout=20) == [0, 0.5, 0, 0.25, 0.5, 0.75]

    async def test_it_counts_in_a_thread_too(self, registry: Registry) -> None:
        @registry.task
        def read(*, job: CurrentJob = INJECTED) -> None:
            for n in track([1, 2, 3, 4], job):
                job.log_sync(f"read {n}")
            job.set_progress_sync(0.5, "half")
            raise ValueError("stop")

        async with running(registry):
            job = await read.enqueue()
            with pytest.raises(JobFailedError):
                await job.result(timeout=20)
            assert await job.progress() == 0.5
            assert [line.text for line in await job.logs()] == [f"read {n}" for n in (1, 2, 3, 4)]

    async def test_what_has_no_length_needs_a_total(self, registry: Registry) -> None:
        @registry.task
        async def read(*, job: CurrentJob = INJECTED) -> None:
            track(iter([1]), job)

        async with running(registry):
            with pytest.raises(JobFailedError, match=r"how many items a list_iterator has; pass total="):
                await (await read.enqueue()).result(timeout=20)


async def _written(writes: list[float]) -> float:
    """Let the write happen that is due, and return what was written last."""
    for _ in range(5):
        await asyncio.sleep(0)
    return writes[-1]
