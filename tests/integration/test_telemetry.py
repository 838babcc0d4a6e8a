"""Traces from a request to its jobs and their jobs, across the broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar, post
from litestar.plugins.opentelemetry import OpenTelemetryConfig, OpenTelemetryPlugin
from litestar.testing import AsyncTestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from litestar_tasks import (
    INJECTED,
    Constant,
    CurrentJob,
    Discard,
    JobFailedError,
    Registry,
    Retry,
    TasksConfig,
    TasksPlugin,
)
from litestar_tasks.telemetry import Tracing
from tests.integration.conftest import eventually
from tests.servers import RedisServer

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    """What was traced, by the name of the span."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(self.provider)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def app(self, registry: Registry, url: str = "memory://", **settings: Any) -> Litestar:
        config = TasksConfig(
            registry=registry,
            broker_url=url,
            dashboard=None,
            in_process_worker=True,
            middleware=[self.tracing.attempt],
            on_enqueue=[self.tracing.enqueue],
        )
        plugins = [TasksPlugin(config), *settings.pop("plugins", ())]
        return Litestar(plugins=plugins, logging_config=None, **settings)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def traces() -> Traces:
    return Traces()


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    assert child.parent is not None
    assert child.context.trace_id == parent.context.trace_id
    return child.parent.span_id == parent.context.span_id


@pytest.mark.parametrize("broker", ["memory", "redis"])
async def test_a_request_its_jobs_and_their_child_jobs_are_one_trace(
    traces: Traces, broker: str, request: pytest.FixtureRequest
) -> None:
    registry = Registry("test", allow_local=True)

    @registry.task
    async def child() -> str:
        return "grown"

    @registry.task
    def parent() -> str:  # in a thread, where what is current has to be the same
        return child.bind().enqueue_sync().id

    @post("/orders")
    async def order() -> str:
        handle = await parent.enqueue()
        job_id = await handle.result(timeout=20)
        return await registry.job(job_id).result(timeout=20)  # type: ignore[no-any-return]  # by id it has no type

    url = "memory://" if broker == "memory" else request.getfixturevalue("redis_server").url
    web = OpenTelemetryPlugin(OpenTelemetryConfig(tracer_provider=traces.provider))
    async with AsyncTestClient(traces.app(registry, url, route_handlers=[order], plugins=[web])) as client:
        answer = await client.post("/orders", headers={"traceparent": TRACEPARENT})
    assert answer.text == "grown"
    await eventually(lambda: bool(traces.named("run child")))
    server = next(span for span in traces.named("POST /orders") if span.kind is SpanKind.SERVER)
    assert f"{server.context.trace_id:032x}" == TRACEPARENT.split("-")[1]
    assert is_child(traces.one("enqueue parent"), server)
    assert is_child(traces.one("run parent"), traces.one("enqueue parent"))
    assert is_child(traces.one("enqueue child"), traces.one("run parent"))
    assert is_child(traces.one("run child"), traces.one("enqueue child"))
    kinds = {name: traces.one(name).kind for name in ("enqueue parent", "run parent")}
    assert kinds == {"enqueue parent": SpanKind.PRODUCER, "run parent": SpanKind.CONSUMER}


async def test_each_attempt_has_a_span_and_says_what_went_wrong_without_secrets(traces: Traces) -> None:
    registry = Registry("test", allow_local=True)

    @registry.task(max_attempts=2, backoff=Constant(0))
    async def flaky() -> None:
        raise RuntimeError("no access with password=hunter2")

    async with traces.app(registry).lifespan():
        job = await flaky.enqueue()
        with pytest.raises(JobFailedError):
            await job.result(timeout=20)
    attempts = traces.named("run flaky")
    assert [dict(span.attributes or {})["litestar_tasks.attempt"] for span in attempts] == [1, 2]
    assert all(is_child(span, traces.one("enqueue flaky")) for span in attempts)
    for span in attempts:
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {})["messaging.message.id"] == job.id
        assert "RuntimeError: no access" in str(span.status.description)
        (event,) = span.events
        assert "hunter2" not in f"{span.status.description}{dict(event.attributes or {})}"


async def test_a_task_s_signals_are_no_errors(traces: Traces) -> None:
    registry = Registry("test", allow_local=True)

    @registry.task(max_attempts=3)
    async def signalling(*, job: CurrentJob = INJECTED) -> None:
        raise (Retry("not yet", delay=0) if job.attempt == 1 else Discard("pointless"))

    async with traces.app(registry).lifespan():
        await (await signalling.enqueue()).outcome(timeout=20)
    assert [span.status.status_code for span in traces.named("run signalling")] == [StatusCode.UNSET] * 2


async def test_a_job_without_a_trace_or_with_nonsense_begins_one(traces: Traces) -> None:
    registry = Registry("test", allow_local=True)

    @registry.task
    async def alone() -> None: ...

    def spoil(spec: Any) -> None:
        spec.meta = {**spec.meta, "traceparent": 7, "tracestate": "no list"}

    plain = TasksConfig(
        registry=registry,
        broker_url="memory://",
        dashboard=None,
        in_process_worker=True,
        middleware=[traces.tracing.attempt],
        on_enqueue=[spoil],
    )
    with traces.provider.get_tracer("test").start_as_current_span("around the worker"):
        async with Litestar(plugins=[TasksPlugin(plain)], logging_config=None).lifespan():
            await (await alone.enqueue()).result(timeout=20)
    assert traces.one("run alone").parent is None


async def test_a_trace_that_is_not_recorded_leaves_nothing_in_the_job() -> None:
    registry = Registry("test", allow_local=True)
    seen: list[dict[str, Any]] = []
    silent = Tracing()  # the global provider, which nobody has set

    @registry.task(middleware=[silent.attempt], on_enqueue=[silent.enqueue])
    async def quiet(*, job: CurrentJob = INJECTED) -> None:
        seen.append(job.meta)

    config = TasksConfig(registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True)
    async with Litestar(plugins=[TasksPlugin(config)], logging_config=None).lifespan():
        await (await quiet.enqueue()).result(timeout=20)
    assert "traceparent" not in seen[0]


def test_the_library_does_without_opentelemetry_and_says_what_to_install() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
import litestar_tasks
try:
    import litestar_tasks.telemetry
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "install litestar-tasks[opentelemetry]" in done.stdout, done.stderr
