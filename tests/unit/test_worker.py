"""What a worker does with a job, on the in-memory queue; other brokers keep the same contract."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from litestar import Litestar
from litestar.di import NamedDependency, Provide
from saq.job import Job
from saq.types import Context

from litestar_tasks import (
    INJECTED,
    CurrentJob,
    JobAbortedError,
    JobFailedError,
    JobHandle,
    JobNotFoundError,
    Registry,
    StartupError,
    TasksConfig,
    TasksPlugin,
    enqueue_many,
)
from litestar_tasks.queues.base import ClaimedJob
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.worker import execution


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@asynccontextmanager
async def running(
    registry: Registry, *, concurrency: int = 10, processes: int | None = None, **options: Any
) -> AsyncGenerator[TasksPlugin, None]:
    """An app with a worker of its own, on the in-memory queue."""
    configs = registry.queue_configs(
        default={"concurrency": concurrency, "processes": processes, "shutdown_grace_period_s": 1}
    )
    plugin = TasksPlugin(
        TasksConfig(
            registry=registry,
            broker_url="memory://",
            queue_configs=configs,
            dashboard=None,
            in_process_worker=True,
        )
    )
    async with Litestar(plugins=[plugin], logging_config=None, **options).lifespan():
        yield plugin


async def until(condition: Any, *, seconds: float = 5) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
        assert time.monotonic() < deadline, "the condition was never met"
        await asyncio.sleep(0.005)


class TestRunning:
    async def test_a_job_gets_its_arguments_and_its_caller_the_result(self, registry: Registry) -> None:
        @registry.task
        async def update_user_status(ctx: Context, *, user_id: int, status: str) -> dict[str, Any]:
            assert ctx["job"].function == "update_user_status"
            return {"updated": user_id, "status": status}

        async with running(registry) as plugin:
            job = await plugin.get_queue("default").enqueue("update_user_status", user_id=1, status="active")
            handle = registry.job(job.id)
            assert handle.id == job.id
            assert await handle.result(timeout=5) == {"updated": 1, "status": "active"}
            assert await handle.status() == "complete"

    async def test_a_task_enqueues_another_through_the_context_and_by_its_own_method(self, registry: Registry) -> None:
        @registry.task
        async def child(*, n: int) -> int:
            return n + 1

        @registry.task
        async def parent(ctx: Context) -> list[str]:
            by_name = await ctx["queue"].enqueue("child", n=1)
            typed = await child.enqueue(n=2)
            assert by_name is not None
            return [by_name.id, typed.id]

        async with running(registry):
            ids = await (await parent.enqueue()).result(timeout=5)
            assert [await child.job(id).result(timeout=5) for id in ids] == [2, 3]

    async def test_sync_tasks_run_in_as_many_threads_as_the_queue_has_slots(self, registry: Registry) -> None:
        barrier = threading.Barrier(20)

        @registry.task
        def meet() -> str:
            barrier.wait(5)
            return threading.current_thread().name

        async with running(registry, concurrency=20):
            handles = await enqueue_many(meet.bind() for _ in range(20))
            names = {await handle.result(timeout=5) for handle in handles}
        assert len(names) == 20

    async def test_no_more_jobs_run_at_once_than_the_queue_allows(self, registry: Registry) -> None:
        now = most = 0

        @registry.task
        async def count() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

        async with running(registry, concurrency=3):
            for handle in await enqueue_many(count.bind() for _ in range(12)):
                await handle.result(timeout=5)
        assert most == 3

    async def test_jobs_run_in_order_within_a_priority_and_lower_priorities_first(self, registry: Registry) -> None:
        order: list[str] = []

        @registry.task
        async def note(name: str) -> None:
            order.append(name)

        @registry.task
        async def hold(job: CurrentJob) -> None:
            await until(lambda: len(registry.get_all_tasks()) == 2 and go.is_set())

        go = asyncio.Event()
        async with running(registry, concurrency=1):
            await hold.enqueue()
            await note.enqueue("a")
            await note.using(priority=5).enqueue("late")
            await note.using(priority=-5).enqueue("early")
            last = await note.enqueue("b")
            go.set()
            await last.result(timeout=5)
            await until(lambda: len(order) == 4)
        assert order == ["early", "a", "b", "late"]

    async def test_a_delayed_job_waits_for_its_time(self, registry: Registry) -> None:
        @registry.task
        async def now() -> float:
            return time.time()

        async with running(registry):
            before = time.time()
            handle = await now.using(delay=0.2).enqueue()
            assert await handle.status() == "scheduled"
            assert await handle.result(timeout=5) >= before + 0.2

    async def test_progress_is_seen_from_outside(self, registry: Registry) -> None:
        go = asyncio.Event()

        @registry.task
        async def import_rows(job: CurrentJob) -> int:
            await job.set_progress(0.4)
            await go.wait()
            return job.attempt

        async with running(registry):
            handle = await import_rows.enqueue()

            async def seen() -> bool:
                return await handle.progress() == 0.4

            await until(seen)
            assert await handle.status() == "active"
            go.set()
            assert await handle.result(timeout=5) == 1
            assert await handle.progress() == 1.0


class TestFailing:
    async def test_an_error_fails_the_job_with_its_traceback(self, registry: Registry) -> None:
        @registry.task
        async def boom() -> None:
            raise RuntimeError("no paper")

        async with running(registry):
            handle = await boom.enqueue()
            with pytest.raises(JobFailedError, match="RuntimeError: no paper") as caught:
                await handle.result(timeout=5)
            assert "test_worker.py" in caught.value.error
            assert await handle.status() == "failed"

    async def test_a_failed_attempt_is_tried_again_as_often_as_was_asked(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution, "pause_after", lambda attempt, backoff: 0.01 * attempt)
        attempts: list[int] = []

        @registry.task(max_attempts=3)
        async def flaky(job: CurrentJob) -> str:
            attempts.append(job.attempt)
            if len(attempts) < 3:
                raise RuntimeError
            return "at last"

        async with running(registry):
            assert await (await flaky.enqueue()).result(timeout=5) == "at last"
        assert attempts == [1, 2, 3]

    async def test_a_timeout_says_which_limit_was_hit(self, registry: Registry) -> None:
        @registry.task(timeout=0.05)
        async def slow() -> None:
            await asyncio.sleep(10)

        async with running(registry):
            with pytest.raises(JobFailedError, match=r"exceeded its timeout of 0\.05 s"):
                await (await slow.enqueue()).result(timeout=5)

    async def test_a_timeout_error_of_the_tasks_own_is_not_taken_for_the_limit(self, registry: Registry) -> None:
        @registry.task
        async def own() -> None:
            raise TimeoutError("the printer's")

        async with running(registry):
            with pytest.raises(JobFailedError, match="the printer's") as caught:
                await (await own.enqueue()).result(timeout=5)
            assert "exceeded" not in caught.value.error

    async def test_a_sync_task_over_its_time_keeps_its_slot_until_its_thread_ends(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        release = threading.Event()

        @registry.task(timeout=0.05)
        def slow() -> None:
            release.wait(10)

        @registry.task
        async def other() -> None: ...

        async with running(registry, concurrency=1):
            handle = await slow.enqueue()
            second = await other.enqueue()
            await until(lambda: "runs on in its thread" in caplog.text)
            assert await second.status() == "queued"
            release.set()
            with pytest.raises(JobFailedError, match="exceeded its timeout"):
                await handle.result(timeout=5)
            await second.result(timeout=5)

    async def test_the_clock_of_a_sync_task_starts_with_its_function(self, registry: Registry) -> None:
        @registry.task(timeout=0.3)
        def nap() -> None:
            time.sleep(0.2)

        async with running(registry, concurrency=1):
            for handle in await enqueue_many(nap.bind() for _ in range(3)):
                await handle.result(timeout=5)

    async def test_a_result_that_cannot_be_stored_fails_the_job_once(self, registry: Registry) -> None:
        runs = 0

        @registry.task(max_attempts=3)
        async def charge() -> Any:
            nonlocal runs
            runs += 1
            return object()

        async with running(registry):
            with pytest.raises(JobFailedError, match="result: task 'charge' ran, but its result cannot be stored"):
                await (await charge.enqueue()).result(timeout=5)
        assert runs == 1

    async def test_a_job_of_an_unknown_task_is_put_back_then_failed_with_the_reason(
        self, registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution, "_UNKNOWN_TASK_DELAY", 0.05)
        async with running(registry) as plugin:
            queue = plugin.get_queue("default")
            job = await queue.enqueue(Job(function="of_a_newer_release"))
            await until(lambda: "no task 'of_a_newer_release' is registered here" in caplog.text)
            assert await queue.status(job.key) in ("queued", "scheduled", "active")
            monkeypatch.setattr(execution, "UNKNOWN_TASK_GRACE", 0.0)
            with pytest.raises(JobFailedError, match="unknown_task"):
                await registry.job(job.id).result(timeout=5)

    async def test_many_jobs_of_an_unknown_task_are_one_warning_a_minute(
        self, registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution, "_UNKNOWN_TASK_DELAY", 0.05)
        tries: Counter[str] = Counter()
        judge = execution.Execution._unknown_task

        def count(self: execution.Execution, job: ClaimedJob) -> execution.Outcome:
            tries[job.key] += 1
            return judge(self, job)

        monkeypatch.setattr(execution.Execution, "_unknown_task", count)
        async with running(registry) as plugin:
            for _ in range(5):
                await plugin.get_queue("default").enqueue(Job(function="of_a_newer_release"))
            await until(lambda: len(tries) == 5 and min(tries.values()) > 1)
        assert caplog.text.count("no task 'of_a_newer_release' is registered here") == 1

    async def test_a_payload_that_does_not_fit_any_more_fails_with_the_reason(self, registry: Registry) -> None:
        @registry.task
        async def greet(*, name: str) -> None: ...

        async with running(registry) as plugin:
            job = await plugin.get_queue("default").enqueue(Job(function="greet", kwargs={"nmae": "x"}))
            with pytest.raises(JobFailedError, match="stored payload does not fit"):
                await registry.job(job.id).result(timeout=5)


class TestAborting:
    async def test_a_running_job_is_cancelled_and_its_clean_up_awaited(self, registry: Registry) -> None:
        cleaned = asyncio.Event()
        started = asyncio.Event()

        @registry.task
        async def long() -> None:
            started.set()
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(0.01)
                cleaned.set()

        async with running(registry):
            handle = await long.enqueue()
            await started.wait()
            assert await handle.abort("changed my mind") is True
            with pytest.raises(JobAbortedError, match="changed my mind"):
                await handle.result(timeout=5)
            assert cleaned.is_set()

    async def test_an_abort_that_comes_together_with_the_job_ends_it_and_keeps_no_slot(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = MemoryQueue.claim

        async def claim_and_abort(queue: MemoryQueue, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
            jobs = await claim(queue, limit, ahead=ahead)
            for job in jobs:
                if job.function == "late":  # heard before the job has had its first turn on the event loop
                    assert queue._hooks is not None
                    asyncio.get_running_loop().call_soon(queue._hooks.abort, job.key, "changed my mind")
            return jobs

        monkeypatch.setattr(MemoryQueue, "claim", claim_and_abort)

        @registry.task
        async def late() -> None:
            raise AssertionError("it ran")

        @registry.task
        async def other() -> str:
            return "done"

        async with running(registry, concurrency=1):
            with pytest.raises(JobAbortedError, match="changed my mind"):
                await (await late.enqueue()).result(timeout=5)
            assert await (await other.enqueue()).result(timeout=5) == "done"

    async def test_a_waiting_job_is_aborted_and_never_runs(self, registry: Registry) -> None:
        @registry.task
        async def later() -> None:
            raise AssertionError("it ran")

        async with running(registry):
            handle = await later.using(delay=60).enqueue()
            assert await handle.abort() is True
            assert await handle.status() == "aborted"

    async def test_a_finished_job_is_left_as_it_is(self, registry: Registry) -> None:
        @registry.task
        async def done() -> int:
            return 7

        async with running(registry):
            handle = await done.enqueue()
            await handle.result(timeout=5)
            assert await handle.abort() is False
            assert await handle.result(timeout=5) == 7


class TestHandles:
    async def test_a_second_enqueue_under_one_key_gets_the_first_job(self, registry: Registry) -> None:
        @registry.task
        async def job(*, n: int) -> int:
            return n

        async with running(registry) as plugin:
            first = await job.using(key="same", delay=60).enqueue(n=1)
            second = await job.using(key="same").enqueue(n=2)
            assert (first.deduplicated, second.deduplicated) == (False, True)
            assert first.id == second.id
            stored = await plugin.get_queue("default").job("same")
            assert stored is not None
            assert stored.kwargs == {"n": 1}

    async def test_waiting_ends_in_time_and_leaves_the_job_alone(self, registry: Registry) -> None:
        @registry.task
        async def job() -> None: ...

        async with running(registry):
            handle = await job.using(delay=60).enqueue()
            with pytest.raises(TimeoutError):
                await handle.result(timeout=0.01)
            assert await handle.status() == "scheduled"

    async def test_a_job_that_never_was_is_not_found(self, registry: Registry) -> None:
        async with running(registry):
            for id in ("saq:job:default:nobody", "saq:job:elsewhere:x", "nonsense", ""):
                with pytest.raises(JobNotFoundError):
                    await registry.job(id).status()

    async def test_a_result_comes_back_as_the_annotated_type(self, registry: Registry) -> None:
        @registry.task
        async def total() -> Decimal:
            return Decimal("1.50")

        async with running(registry):
            result = await (await total.enqueue()).result(timeout=5)
        assert result == Decimal("1.50")
        assert isinstance(result, Decimal)

    async def test_a_thread_enqueues_without_an_event_loop(self, registry: Registry) -> None:
        @registry.task
        async def add(n: int) -> int:
            return n + 1

        @registry.task
        def from_thread() -> str:
            return add.bind(1).enqueue_sync().id

        async with running(registry):
            id = await (await from_thread.enqueue()).result(timeout=5)
            assert await add.job(id).result(timeout=5) == 2
            with pytest.raises(RuntimeError, match="would block the event loop"):
                add.bind(1).enqueue_sync()


class Thing:
    pass


class TestDependencies:
    async def test_generators_are_opened_once_per_attempt_and_closed_in_reverse(self, registry: Registry) -> None:
        events: list[str] = []

        async def outer() -> AsyncGenerator[Thing, None]:
            events.append("outer opens")
            yield Thing()
            events.append("outer closes")

        def inner(outer: NamedDependency[Thing]) -> Generator[Thing, None, None]:
            events.append("inner opens")
            yield outer
            events.append("inner closes")

        @registry.task
        async def use(*, inner: Thing, outer: Thing = INJECTED) -> bool:
            events.append("body")
            return inner is outer

        async with running(
            registry, dependencies={"outer": Provide(outer), "inner": Provide(inner)}, signature_namespace={}
        ):
            assert await (await use.enqueue()).result(timeout=5) is True
        assert events == ["outer opens", "inner opens", "body", "inner closes", "outer closes"]

    async def test_a_generator_sees_the_error_and_cannot_swallow_it(self, registry: Registry) -> None:
        seen: list[BaseException] = []

        async def swallowing() -> AsyncGenerator[Thing, None]:
            try:
                yield Thing()
            except RuntimeError as error:
                seen.append(error)

        @registry.task
        async def boom(*, thing: Thing) -> None:
            raise RuntimeError("mine")

        async with running(registry, dependencies={"thing": Provide(swallowing)}):
            with pytest.raises(JobFailedError, match="mine"):
                await (await boom.enqueue()).result(timeout=5)
        assert str(seen[0]) == "mine"

    async def test_a_clean_up_that_fails_fails_the_attempt(self, registry: Registry) -> None:
        async def failing() -> AsyncGenerator[Thing, None]:
            yield Thing()
            raise RuntimeError("no commit")

        @registry.task
        async def job(*, thing: Thing) -> str:
            return "done"

        async with running(registry, dependencies={"thing": Provide(failing)}):
            with pytest.raises(JobFailedError, match="no commit"):
                await (await job.enqueue()).result(timeout=5)

    async def test_sync_class_cached_and_threaded_providers_work(self, registry: Registry) -> None:
        calls: list[str] = []

        def cached() -> Thing:
            calls.append("cached")
            return Thing()

        def threaded(cached: NamedDependency[Thing]) -> str:
            return threading.current_thread().name

        @registry.task
        async def use(*, thing: Thing, cached: Thing, name: str = INJECTED) -> str:
            return name

        async with running(
            registry,
            dependencies={
                "thing": Provide(Thing, sync_to_thread=False),
                "cached": Provide(cached, use_cache=True, sync_to_thread=False),
                "name": Provide(threaded, sync_to_thread=True),
            },
        ):
            first = await (await use.enqueue()).result(timeout=5)
            await (await use.enqueue()).result(timeout=5)
        assert first != threading.main_thread().name
        assert calls == ["cached"]

    async def test_an_optional_dependency_that_is_not_there_keeps_its_default(self, registry: Registry) -> None:
        @registry.task
        async def job(*, thing: Thing | None = None) -> bool:
            return thing is None

        async with running(registry):
            assert await (await job.enqueue()).result(timeout=5) is True

    async def test_everything_that_cannot_work_is_refused_together_at_start_up(self, registry: Registry) -> None:
        def needs_request(request: Any) -> Thing:
            return Thing()

        def a(b: Any) -> Thing:
            return Thing()

        def b(a: Any) -> Thing:
            return Thing()

        def needs_stranger(stranger: Any) -> Thing:
            return Thing()

        @registry.task
        async def one(*, user: Thing) -> None: ...

        @registry.task
        async def two(*, needs_request: Thing) -> None: ...

        @registry.task
        async def three(*, a: Thing) -> None: ...

        @registry.task
        async def four(*, needs_stranger: Thing) -> None: ...

        @registry.task(queue="defualt")
        async def five() -> None: ...

        dependencies = {
            fn.__name__: Provide(fn, sync_to_thread=False) for fn in (needs_request, a, b, needs_stranger)
        } | {"db_user": Provide(Thing, sync_to_thread=False)}
        # Litestar runs lifespan managers within a task group, which wraps what they raise.
        with pytest.RaisesGroup(StartupError) as caught:
            async with running(registry, dependencies=dependencies):
                pass
        (error,) = caught.value.exceptions
        message = str(error)
        assert len(error.problems) == 5
        assert "parameter 'user': the app has no dependency 'user' (did you mean 'db_user'?)" in message
        assert "task 'two' → 'needs_request' needs 'request', which exists only in a request" in message
        assert "task 'three' → 'a' → 'b' → 'a': the dependencies need each other in a circle" in message
        assert "needs 'stranger', which the app does not provide" in message
        assert "queues 'default' and 'defualt' differ by one letter" in message

    async def test_an_app_dependency_of_an_arguments_name_does_not_capture_it(self, registry: Registry) -> None:
        @registry.task
        async def job(*, user_id: int) -> int:
            return user_id

        async with running(registry, dependencies={"user_id": Provide(lambda: 99, sync_to_thread=False)}):
            assert await (await job.enqueue(user_id=1)).result(timeout=5) == 1


class TestStopping:
    @pytest.mark.alone
    async def test_running_jobs_end_within_the_grace_and_an_idle_worker_stops_at_once(self, registry: Registry) -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        @registry.task
        async def job() -> None:
            started.set()
            await asyncio.sleep(0.2)
            ended.set()

        async with running(registry):
            await job.enqueue()
            await started.wait()
        assert ended.is_set()
        before = time.monotonic()
        async with running(registry):
            pass
        assert time.monotonic() - before < 1

    async def test_what_outlasts_the_grace_is_cancelled_and_handed_back(self, registry: Registry) -> None:
        started, cleaned = asyncio.Event(), asyncio.Event()

        @registry.task
        async def job() -> None:
            started.set()
            try:
                await asyncio.sleep(100)
            finally:
                cleaned.set()

        async with running(registry) as plugin:
            handle: JobHandle[None] = await job.enqueue()
            queue = plugin.get_queue("default")
            await started.wait()
        assert cleaned.is_set()
        record = await queue.job(handle.id.rpartition(":")[2])
        assert record is not None
        assert (record.status.value, record.attempts) == ("queued", 0)

    async def test_an_error_that_the_stop_itself_brings_about_costs_no_attempt(self, registry: Registry) -> None:
        started = asyncio.Event()

        @registry.task
        async def query() -> None:
            started.set()
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                raise ConnectionError("the connection was closed in the midst of a query") from None

        async with running(registry) as plugin:
            handle: JobHandle[None] = await query.enqueue()
            queue = plugin.get_queue("default")
            await started.wait()
        record = await queue.job(handle.id.rpartition(":")[2])
        assert record is not None
        assert (record.status.value, record.attempts) == ("queued", 0)

    async def test_what_must_not_run_twice_is_failed_instead_of_handed_back(self, registry: Registry) -> None:
        started = asyncio.Event()

        @registry.task(at_most_once=True)
        async def charge() -> None:
            started.set()
            await asyncio.sleep(100)

        async with running(registry) as plugin:
            handle = await charge.enqueue()
            queue = plugin.get_queue("default")
            await started.wait()
        record = await queue.job(handle.id.rpartition(":")[2])
        assert record is not None
        assert record.status.value == "failed"
        assert "must not be started twice" in (record.error or "")


async def test_a_drain_runs_what_is_ready_and_returns(registry: Registry) -> None:
    ran: list[int] = []

    @registry.task
    async def job(*, n: int) -> None:
        ran.append(n)
        if n == 0:
            await job.enqueue(n=99)
        if n == 4:
            await job.using(delay=0.3).enqueue(n=100)
            await until(lambda: 100 in ran)

    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))

    async def fill(app: Litestar) -> None:
        await enqueue_many(job.bind(n=n) for n in range(5))
        await job.using(delay=3600).enqueue(n=-1)

    app = Litestar(plugins=[plugin], on_startup=[fill], logging_config=None)
    assert await asyncio.wait_for(plugin.run_worker(app, drain=True), 10) == 0
    assert ran == [0, 1, 2, 3, 4, 99, 100], "what becomes due meanwhile, too, and no more"


async def test_a_drain_waits_for_all_queues_and_leaves_paused_ones(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    @registry.task(queue="one")
    async def first(*, hops: int) -> None:
        ran.append(f"first {hops}")
        if hops:
            await second.enqueue(hops=hops - 1)

    @registry.task(queue="two")
    async def second(*, hops: int) -> None:
        ran.append(f"second {hops}")
        if hops:
            await first.enqueue(hops=hops - 1)

    @registry.task(queue="halted")
    async def never() -> None:
        ran.append("never")

    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))

    async def fill(app: Litestar) -> None:
        await first.enqueue(hops=5)
        await never.enqueue()
        await plugin.get_queue("halted").pause()

    app = Litestar(plugins=[plugin], on_startup=[fill], logging_config=None)
    assert await asyncio.wait_for(plugin.run_worker(app, drain=True), 30) == 0
    assert ran == ["first 5", "second 4", "first 3", "second 2", "first 1", "second 0"]
    assert "queue 'halted' is paused; 1 jobs are left in it" in caplog.text


async def test_a_task_that_blocks_the_event_loop_is_named(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    @registry.task
    async def busy() -> None:
        time.sleep(3)  # noqa: ASYNC251  # the mistake under test

    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))

    async def fill(app: Litestar) -> None:
        await busy.enqueue()

    app = Litestar(plugins=[plugin], on_startup=[fill], logging_config=None)
    await plugin.run_worker(app, drain=True)
    assert "task 'busy' has blocked" in caplog.text
    assert "the event loop for" in caplog.text


async def test_a_task_that_blocks_a_web_process_is_named_and_a_request_is_not(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    @registry.task
    async def busy() -> None:
        deadline = time.monotonic() + 20
        while "has blocked" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)  # noqa: ASYNC251  # the mistake under test

    async with running(registry):
        time.sleep(3)  # noqa: ASYNC251  # as a route might
        assert "has blocked" not in caplog.text
        await (await busy.enqueue()).result(timeout=20)
        assert "task 'busy' has blocked the event loop for" in caplog.text


async def test_a_worker_without_tasks_says_what_may_be_missing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))
    await plugin.run_worker(Litestar(plugins=[plugin], logging_config=None), drain=True)
    assert "registry 'test' has no tasks; import the modules that declare them" in caplog.text


async def test_a_schedule_fires_once_for_each_firing(registry: Registry) -> None:
    keys: list[str] = []

    @registry.scheduled_task(every=timedelta(seconds=1), kwargs={"region": "eu"})
    async def report(ctx: Context, *, region: str) -> None:
        keys.append(ctx["job"].key)

    async with running(registry):
        await until(lambda: len(keys) >= 2)
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("report@") for key in keys)


def test_the_log_never_names_arguments(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    @registry.task
    async def boom(*, password: str) -> None:
        raise RuntimeError("failed")

    async def run() -> None:
        async with running(registry):
            with pytest.raises(JobFailedError):
                await (await boom.enqueue(password="hunter2")).result(timeout=5)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert "task 'boom' failed" in caplog.text
    assert "hunter2" not in caplog.text
