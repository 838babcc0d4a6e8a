"""What a running job says of itself: how far it has come, what it is doing, and lines of a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from litestar_tasks import INJECTED, CurrentJob, Registry, track
from tests.features.conftest import Run


async def test_progress_message_and_log_reach_whoever_follows(run: Run, registry: Registry) -> None:
    go = asyncio.Event()

    @registry.task
    async def resize(job: CurrentJob) -> None:
        await job.set_progress(0.4, "resizing")
        await job.log("half-way")
        await go.wait()
        await job.set_progress(0.8)

    async with run(registry):
        job = await registry.get_task("resize").enqueue()
        seen: list[tuple[str, float, str | None]] = []
        async with asyncio.timeout(30):
            async for event in job.events():
                seen.append((event.status, event.progress, event.message))
                if event.progress == 0.4 and not go.is_set():
                    assert await job.progress() == 0.4
                    go.set()
        assert ("active", 0.4, "resizing") in seen
        assert seen[-1][0] == "complete"
        assert [line.text for line in await job.logs()] == ["half-way"]


async def test_a_loop_is_tracked_in_async_and_in_sync_tasks(run: Run, registry: Registry) -> None:
    async def rows() -> AsyncIterator[int]:
        for number in range(4):
            yield number

    @registry.task
    async def over_a_list(numbers: list[int], job: CurrentJob = INJECTED) -> list[int]:
        return [number async for number in track(numbers, job)]

    @registry.task
    async def over_a_stream(job: CurrentJob = INJECTED) -> list[int]:
        return [number async for number in track(rows(), job, total=4)]

    @registry.task
    def in_a_thread(numbers: list[int], job: CurrentJob = INJECTED) -> list[int]:
        job.log_sync(f"{len(numbers)} numbers")
        job.set_progress_sync(0.5, "in a thread")
        return list(track(numbers, job))

    async with run(registry):
        jobs: list[Any] = [
            await over_a_list.enqueue([1, 2]),
            await over_a_stream.enqueue(),
            await in_a_thread.enqueue([3]),
        ]
        assert [await job.result(timeout=20) for job in jobs] == [[1, 2], [0, 1, 2, 3], [3]]
        assert [await job.progress() for job in jobs] == [1.0, 1.0, 1.0]
        assert [line.text for line in await jobs[2].logs()] == ["1 numbers"]


async def test_what_is_said_quickly_is_written_seldom_and_its_end_always(
    run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @registry.task
    async def chatty(job: CurrentJob) -> None:
        for step in range(2_000):
            await job.set_progress(step / 2_000, f"step {step}")

    async with run(registry) as plugin:
        queue: Any = plugin.get_queue("default")
        writes: list[object] = []
        update = queue.update

        async def counted(*args: Any, **kwargs: Any) -> Any:
            writes.append(args)
            return await update(*args, **kwargs)

        monkeypatch.setattr(queue, "update", counted)
        job = await registry.get_task("chatty").enqueue()
        await job.result(timeout=60)
        events = [event async for event in job.events()]
        assert events[-1].message == "step 1999"
        assert 0 < len(writes) < 200, "none, or as good as every step was written"
