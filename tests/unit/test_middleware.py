"""Code of one's own around attempts and enqueues, and the id that ties jobs to requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import Litestar, post
from litestar.testing import AsyncTestClient

from litestar_tasks import (
    INJECTED,
    CallNext,
    ConfigurationError,
    CurrentJob,
    EnqueueHook,
    JobFailedError,
    JobSpec,
    Middleware,
    Registry,
    TasksConfig,
    TasksPlugin,
    correlation_id,
    enqueue_many,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def plugin_for(registry: Registry, **settings: Any) -> TasksPlugin:
    return TasksPlugin(
        TasksConfig(registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True, **settings)
    )


@asynccontextmanager
async def running(registry: Registry, **settings: Any) -> AsyncGenerator[TasksPlugin, None]:
    plugin = plugin_for(registry, **settings)
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        yield plugin


def noting(order: list[str], name: str) -> Middleware:
    async def middleware(job: CurrentJob, call_next: CallNext) -> Any:
        order.append(f"{name} before {job.task}")
        try:
            return await call_next()
        finally:
            order.append(f"{name} after")

    return middleware


def marking(name: str) -> EnqueueHook:
    def hook(spec: JobSpec) -> None:
        spec.meta = {**spec.meta, "marks": [*spec.meta.get("marks", ()), name]}

    return hook


class TestAttempts:
    async def test_the_apps_is_outermost_then_the_registrys_then_the_tasks(self) -> None:
        order: list[str] = []
        registry = Registry("test", allow_local=True, middleware=[noting(order, "registry")])

        async def resource() -> AsyncGenerator[str, None]:
            order.append("dependency up")
            yield "resource"
            order.append("dependency down")

        @registry.task(middleware=[noting(order, "task"), noting(order, "inner")], dependencies={"resource": resource})
        async def work(*, resource: str = INJECTED) -> str:
            order.append("work")
            return resource

        async with running(registry, middleware=[noting(order, "app")]):
            assert await (await work.enqueue()).result(timeout=20) == "resource"
        assert order == [
            "app before work",
            "registry before work",
            "task before work",
            "inner before work",
            "dependency up",
            "work",
            "dependency down",
            "inner after",
            "task after",
            "registry after",
            "app after",
        ]

    async def test_it_may_change_the_result_and_answer_without_running_the_task(self) -> None:
        async def doubled(job: CurrentJob, call_next: CallNext) -> Any:
            return 2 * await call_next()

        async def cached(job: CurrentJob, call_next: CallNext) -> Any:
            return 21

        registry = Registry("test", allow_local=True)

        @registry.task(middleware=[doubled, cached])
        async def never() -> int:
            raise AssertionError("it ran")

        async with running(registry):
            assert await (await never.enqueue()).result(timeout=20) == 42

    async def test_it_sees_the_tasks_error_and_what_it_raises_itself_is_the_attempts(self) -> None:
        seen: list[str] = []

        async def translating(job: CurrentJob, call_next: CallNext) -> Any:
            try:
                return await call_next()
            except KeyError as error:
                seen.append(repr(error))
                raise LookupError("translated") from error

        registry = Registry("test", allow_local=True)

        @registry.task(middleware=[translating])
        def fail() -> None:
            raise KeyError("x")

        async with running(registry):
            with pytest.raises(JobFailedError, match="LookupError: translated"):
                await (await fail.enqueue()).result(timeout=20)
        assert seen == ["KeyError('x')"]

    @pytest.mark.parametrize("wrong", [7, "abc", [7], [lambda job, call_next: None]])
    def test_what_cannot_be_middleware_is_refused_at_its_line(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"async def \(job, call_next\)"):
            Registry("test", middleware=wrong)
        with pytest.raises(ConfigurationError, match=r"async def \(job, call_next\)"):
            TasksConfig(registry=Registry("test"), middleware=wrong)


class TestEnqueues:
    async def test_hooks_add_to_what_travels_with_each_call_however_it_is_enqueued(self) -> None:
        registry = Registry("test", allow_local=True, on_enqueue=[marking("registry")])

        @registry.task(on_enqueue=[marking("task")])
        async def marks(*, job: CurrentJob = INJECTED) -> list[str]:
            found: list[str] = job.meta["marks"]
            return found

        @registry.task
        async def others(*, job: CurrentJob = INJECTED) -> list[str]:
            found: list[str] = job.meta["marks"]
            return found

        async with running(registry, on_enqueue=[marking("app")]) as plugin:
            by_name = await plugin.get_queue("default").enqueue("marks")
            jobs = [
                await marks.enqueue(),
                await marks.using(priority=1).enqueue(),
                marks.job(by_name.id),
                *await enqueue_many([marks.bind(), marks.bind()]),
            ]
            assert [await job.result(timeout=20) for job in jobs] == [["app", "registry", "task"]] * 5
            assert await (await others.enqueue()).result(timeout=20) == ["app", "registry"]

    async def test_a_hook_that_raises_refuses_the_call_and_nothing_is_stored(self) -> None:
        def refusing(spec: JobSpec) -> None:
            raise PermissionError(f"{spec.task} {dict(spec.kwargs)}")

        registry = Registry("test", allow_local=True)

        @registry.task(on_enqueue=[refusing])
        async def guarded(*, n: int) -> None: ...

        async with running(registry) as plugin:
            with pytest.raises(PermissionError, match=r"guarded {'n': 1}"):
                await guarded.enqueue(n=1)
            assert await plugin.get_queue("default").count("incomplete") == 0


class TestCorrelation:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"X-Request-ID": "abc"}, "abc"),
            ({"traceparent": TRACEPARENT}, "0af7651916cd43dd8448eb211c80319c"),
            ({"traceparent": TRACEPARENT, "X-Request-ID": "r"}, "r"),
            ({"X-Request-ID": "x" * 129}, None),
            ({"traceparent": "nonsense"}, None),
            ({}, None),
        ],
    )
    async def test_the_requests_id_reaches_its_job_and_that_jobs_jobs(
        self, headers: dict[str, str], expected: str | None
    ) -> None:
        registry = Registry("test", allow_local=True)

        @registry.task
        async def child(*, job: CurrentJob = INJECTED) -> str | None:
            assert correlation_id.get() == job.correlation_id
            return job.correlation_id

        @registry.task
        def parent() -> str:
            assert correlation_id.get() == expected
            return child.bind().enqueue_sync().id

        @post("/")
        async def route() -> str:
            return (await parent.enqueue()).id

        app = Litestar([route], plugins=[plugin_for(registry)], logging_config=None)
        async with AsyncTestClient(app) as client:
            first = await client.post("/", headers=headers)
            assert first.status_code == 201
            grandchild = await parent.job(first.text).result(timeout=20)
            assert await child.job(grandchild).result(timeout=20) == expected

    async def test_outside_of_requests_it_is_what_the_caller_sets(self) -> None:
        registry = Registry("test", allow_local=True)

        @registry.task
        async def which() -> str | None:
            return correlation_id.get()

        async with running(registry):
            before = correlation_id.set("nightly-7")
            first = await which.enqueue()
            correlation_id.reset(before)
            second = await which.enqueue()
            assert await first.result(timeout=20) == "nightly-7"
            assert await second.result(timeout=20) is None

    async def test_headers_of_ones_own_and_none(self) -> None:
        registry = Registry("test", allow_local=True)

        @registry.task
        async def which() -> str | None:
            return correlation_id.get()

        @post("/")
        async def route() -> str | None:
            return await (await which.enqueue()).result(timeout=20)

        for names, expected in ((["X-Trace"], "t"), ([], "")):
            app = Litestar([route], plugins=[plugin_for(registry, correlation_headers=names)], logging_config=None)
            async with AsyncTestClient(app) as client:
                headers = {"X-Trace": "t", "X-Request-ID": "r"}
                answer = await client.post("/", headers=headers)
                assert answer.text in (expected, "null")
