"""How long attempts may take, when jobs start, until when, and how long they are remembered."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from litestar_tasks import (
    ConfigurationError,
    JobDiscardedError,
    JobFailedError,
    JobFilter,
    JobHandle,
    Registry,
    Retry,
    Snooze,
)
from tests.features.conftest import Run


class TestTimeout:
    async def test_an_async_task_is_cancelled_and_can_clean_up(self, run: Run, registry: Registry) -> None:
        seen: list[str] = []

        @registry.task(timeout=0.1)
        async def fn() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                seen.append("cleaned up")
                raise

        async with run(registry):
            with pytest.raises(
                JobFailedError, match=r"TimeoutError: task 'fn' exceeded its timeout of 0\.1 s"
            ) as caught:
                await (await fn.enqueue()).result(timeout=20)
            assert caught.value.error_type == "TimeoutError"
        assert seen == ["cleaned up"]

    async def test_a_sync_task_runs_on_to_its_end_and_the_error_says_so(self, run: Run, registry: Registry) -> None:
        seen: list[str] = []

        @registry.task(timeout=timedelta(milliseconds=50))
        def fn() -> None:
            time.sleep(0.3)
            seen.append("ran on")

        async with run(registry):
            with pytest.raises(JobFailedError, match=r"exceeded its timeout of 0\.05 s, and ran on in its thread"):
                await (await fn.enqueue()).result(timeout=20)
            assert seen == ["ran on"]

    async def test_none_is_no_limit_and_a_call_may_set_its_own(self, run: Run, registry: Registry) -> None:
        @registry.task(timeout=0.05)
        async def fn() -> str:
            await asyncio.sleep(0.2)
            return "done"

        async with run(registry):
            assert await (await fn.using(timeout=None).enqueue()).result(timeout=20) == "done"
            assert await (await fn.using(timeout=timedelta(seconds=30)).enqueue()).result(timeout=20) == "done"


class TestStart:
    async def test_a_job_waits_for_its_delay_or_its_moment(self, run: Run, registry: Registry) -> None:
        started: dict[str, float] = {}

        @registry.task
        async def fn(name: str) -> None:
            started[name] = time.time()

        async with run(registry):
            begun = time.time()
            elsewhere = timezone(timedelta(hours=5, minutes=30))
            jobs = [
                await fn.using(delay=0.5).enqueue("delay"),
                await fn.using(delay=timedelta(seconds=0.5)).enqueue("timedelta"),
                await fn.using(run_at=datetime.now(UTC) + timedelta(seconds=0.5)).enqueue("run_at"),
                await fn.using(run_at=datetime.now(elsewhere) + timedelta(seconds=0.5)).enqueue("zone"),
                await fn.bind("bound").using(delay=0.5).enqueue(),
            ]
            assert await jobs[0].status() in ("scheduled", "queued", "active", "complete")
            past = await fn.using(run_at=datetime(2000, 1, 1, tzinfo=UTC)).enqueue("past")
            await past.result(timeout=20)
            later = await fn.using(delay=timedelta(days=30)).enqueue("never")
            assert await later.status() == "scheduled"
            for job in jobs:
                await job.result(timeout=20)
        assert "never" not in started
        assert all(moment >= begun + 0.49 for name, moment in started.items() if name != "past"), started

    @pytest.mark.parametrize("naive", [datetime(2026, 1, 1), datetime.max])
    def test_a_moment_without_a_zone_is_refused_with_the_remedy(self, registry: Registry, naive: datetime) -> None:
        @registry.task
        async def fn() -> None: ...

        says = r"run_at is .* which has no time zone; write datetime\.now\(UTC\) \+ …, or give it a tzinfo"
        with pytest.raises(ConfigurationError, match=says):
            fn.using(run_at=naive)
        for signal in (Retry, Snooze):
            with pytest.raises(ConfigurationError, match="no time zone"):
                signal("why", run_at=naive)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"delay": -1}, "give seconds or a timedelta, not negative"),
            ({"delay": "5"}, "give seconds or a timedelta"),
            ({"delay": True}, "give seconds or a timedelta"),
            ({"delay": 1, "run_at": datetime(2026, 1, 1, tzinfo=UTC)}, "both delay and run_at"),
            ({"run_at": "2026-01-01"}, "give an aware datetime"),
            ({"timeout": 0}, "give more than 0 seconds, or None for no limit"),
            ({"ttl": -1}, "not negative"),
            ({"expires": 0}, "more than 0 seconds, or None"),
        ],
    )
    def test_times_that_cannot_be_meant_are_refused(self, registry: Registry, options: Any, says: str) -> None:
        @registry.task
        async def fn() -> None: ...

        with pytest.raises(ConfigurationError, match=says):
            fn.using(**options)

    async def test_a_job_that_was_not_started_in_time_is_discarded(self, run: Run, registry: Registry) -> None:
        seen: list[str] = []
        begun, go = asyncio.Event(), asyncio.Event()

        @registry.task
        async def blocking() -> None:
            begun.set()
            await go.wait()

        @registry.task(expires=0.2)
        async def fn(name: str) -> None:
            seen.append(name)

        async with run(registry, queue_configs=registry.queue_configs(default={"concurrency": 1})):
            await blocking.enqueue()
            await asyncio.wait_for(begun.wait(), 20)
            late = await fn.enqueue("late")
            patient = await fn.using(expires=timedelta(hours=1)).enqueue("patient")
            await asyncio.sleep(0.4)
            go.set()
            with pytest.raises(JobDiscardedError, match="expired"):
                await late.result(timeout=20)
            await patient.result(timeout=20)
        assert seen == ["patient"]


class TestTtl:
    async def test_results_are_kept_for_ever_for_a_while_or_not_at_all(self, run: Run, registry: Registry) -> None:
        @registry.task
        async def fn() -> int:
            return 7

        async with run(registry) as plugin:
            queue = plugin.get_queue("default")
            ever = await fn.using(ttl=None).enqueue()
            day = await fn.enqueue()
            assert await ever.result(timeout=20) == await day.result(timeout=20) == 7
            # SAQ's field: 0 for ever, -1 not at all, else seconds.
            assert [(await record(queue, job)).ttl for job in (ever, day)] == [0, 86_400]
            never = await fn.using(ttl=0).enqueue()
            assert await never.result(timeout=20) == 7  # found for a minute, and listed not even then
            assert (await record(queue, never)).ttl == -1
            listed = [job.id for job in (await queue.page(JobFilter(state="complete"))).jobs]
            assert sorted(listed) == sorted([ever.id, day.id])


async def record(queue: Any, handle: JobHandle[Any]) -> Any:
    return await queue.job(handle.id.rpartition(":")[2])
