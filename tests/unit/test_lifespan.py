"""What lives as long as a worker, and the dependencies of tasks and registries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from litestar import Litestar
from litestar.di import Provide
from saq.types import Context

from litestar_tasks import (
    INJECTED,
    ConfigurationError,
    CurrentJob,
    DependencyError,
    JobFailedError,
    Registry,
    StartupError,
    TasksConfig,
    TasksPlugin,
)


class Client:
    """What cannot be stored, and so can only be injected."""

    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.is_open = True


class Service:
    def __init__(self, http_client: Client) -> None:
        self.client = http_client


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@asynccontextmanager
async def running(registry: Registry, *lifespans: Any, **options: Any) -> AsyncGenerator[Litestar, None]:
    config = TasksConfig(
        registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True, lifespan=lifespans
    )
    app = Litestar(plugins=[TasksPlugin(config)], logging_config=None, **options)
    async with app.lifespan():
        yield app


async def start(registry: Registry, *lifespans: Any, **options: Any) -> BaseException:
    """The error that ends a start."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011  # Litestar's task group wraps it
        async with running(registry, *lifespans, **options):
            pass
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def http(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
    client = Client()
    yield {"http_client": client}
    client.is_open = False


class TestResources:
    async def test_they_are_injected_by_name_and_stand_in_the_context(self, registry: Registry) -> None:
        seen: list[Any] = []

        @registry.task
        async def fetch(ctx: Context, *, http_client: Client = INJECTED) -> bool:
            seen.append(http_client)
            context: Mapping[str, Any] = ctx
            return context["http_client"] is http_client and http_client.is_open

        async with running(registry, http):
            assert await (await fetch.enqueue()).result(timeout=20)
            assert await (await fetch.enqueue()).result(timeout=20)
        assert seen[0] is seen[1]
        assert not seen[0].is_open

    async def test_they_open_after_the_app_and_close_when_the_last_job_has_ended(self, registry: Registry) -> None:
        order: list[str] = []

        @asynccontextmanager
        async def of_the_app(app: Litestar) -> AsyncGenerator[None, None]:
            order.append("app up")
            yield
            order.append("app down")

        @asynccontextmanager
        async def first(app: Litestar) -> AsyncGenerator[Mapping[str, object], None]:
            order.append("first up")
            yield {"first": Client()}
            order.append("first down")

        async def second(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
            order.append("second up")
            yield {}
            order.append("second down")

        begun = asyncio.Event()

        @registry.task
        async def work(*, first: Client = INJECTED) -> None:
            begun.set()
            await asyncio.sleep(0.05)
            order.append("job")

        async with running(registry, first, second, lifespan=[of_the_app]):
            await work.enqueue()
            async with asyncio.timeout(20):
                await begun.wait()
        assert order == ["app up", "first up", "second up", "job", "second down", "first down", "app down"]

    async def test_nothing_is_opened_where_no_worker_runs(self, registry: Registry) -> None:
        opened: list[str] = []

        async def lifespan(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
            opened.append("up")
            yield {}

        config = TasksConfig(registry=registry, broker_url="memory://", dashboard=None, lifespan=[lifespan])
        async with Litestar(plugins=[TasksPlugin(config)], logging_config=None).lifespan():
            pass
        assert not opened

    async def test_two_that_yield_one_name_are_refused_and_what_was_opened_is_closed(self, registry: Registry) -> None:
        closed: list[str] = []

        async def mine(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
            try:
                yield {"http_client": 1}
            finally:
                closed.append("mine")

        error = await start(registry, mine, http)
        assert isinstance(error, ConfigurationError)
        assert "both yield 'http_client'" in str(error)
        assert closed == ["mine"]

    @pytest.mark.parametrize(
        ("yielded", "said"),
        [
            ({"http-client": 1}, "'http-client', which cannot be the name of a parameter"),
            ({"class": 1}, "'class', which cannot be the name of a parameter"),
            ({"job": 1}, "'job', which a task's context has already"),
            (None, "yields None; let it yield its resources by name"),
        ],
    )
    async def test_what_cannot_be_injected_is_refused(self, registry: Registry, yielded: Any, said: str) -> None:
        async def lifespan(app: Litestar) -> AsyncIterator[Any]:
            yield yielded

        assert said in str(await start(registry, lifespan))

    async def test_a_function_that_yields_nothing_at_all_is_refused(self, registry: Registry) -> None:
        async def lifespan(app: Litestar) -> dict[str, object]:
            return {}

        assert "returns a coroutine; let it be an async function that yields once" in str(
            await start(registry, lifespan)
        )

    async def test_a_name_that_no_lifespan_yields_refuses_the_start_with_the_path(self, registry: Registry) -> None:
        @registry.task(dependencies={"api": lambda htp_client: htp_client})
        async def fetch(*, api: Client = INJECTED) -> None: ...

        error = await start(registry, http)
        assert isinstance(error, StartupError)
        assert "task 'fetch' → 'api' needs 'htp_client'" in str(error)

    async def test_what_a_lifespan_cannot_change_is_refused_without_entering_it(self, registry: Registry) -> None:
        @registry.task(dependencies={"user": lambda request: request})
        async def greet(*, user: Client = INJECTED) -> None: ...

        config = TasksConfig(registry=registry, broker_url="memory://", dashboard=None, lifespan=[http])
        plugin = TasksPlugin(config)
        with pytest.raises(StartupError, match="'request', which exists only in a request"):
            plugin.check(Litestar(plugins=[plugin], logging_config=None))


def url_of(base: str) -> str:
    return f"http://{base}"


class TestPrecedence:
    async def test_task_before_registry_before_lifespan_before_app(self) -> None:
        def named(name: str) -> Provide:
            return Provide(lambda: name, sync_to_thread=False)

        registry = Registry("test", allow_local=True, dependencies={"a": named("registry"), "b": named("registry")})

        @registry.task(dependencies={"a": named("task")})
        async def all_levels(
            *, a: str = INJECTED, b: str = INJECTED, c: str = INJECTED, d: str = INJECTED
        ) -> list[str]:
            return [a, b, c, d]

        async def lifespan(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
            yield dict.fromkeys("abc", "lifespan")

        dependencies = {name: named("app") for name in "abcd"}
        async with running(registry, lifespan, dependencies=dependencies):
            found = await (await all_levels.enqueue()).result(timeout=20)
        assert found == ["task", "registry", "lifespan", "app"]

    async def test_a_task_may_replace_what_a_dependency_of_the_app_needs(self, registry: Registry) -> None:
        @registry.task(dependencies={"base": lambda: "mine"})
        async def mine(*, url: Any = INJECTED) -> str:
            return str(url)

        @registry.task
        async def others(*, url: Any = INJECTED) -> str:
            return str(url)

        dependencies = {
            "base": Provide(lambda: "app", sync_to_thread=False),
            "url": Provide(url_of, sync_to_thread=False),
        }
        async with running(registry, dependencies=dependencies):
            assert await (await mine.enqueue()).result(timeout=20) == "http://mine"
            assert await (await others.enqueue()).result(timeout=20) == "http://app"


class TestProviders:
    async def test_generators_are_continued_in_reverse_order_and_see_the_error(self, registry: Registry) -> None:
        order: list[str] = []

        async def outer() -> AsyncGenerator[str, None]:
            try:
                yield "outer"
            except ValueError as error:
                order.append(f"outer saw {error}")

        def inner(outer: str) -> Generator[str, None, None]:
            try:
                yield f"{outer}/inner"
            finally:
                order.append("inner")

        @registry.task(dependencies={"outer": outer, "inner": inner})
        async def fail(*, inner: str = INJECTED) -> None:
            raise ValueError(inner)

        async with running(registry):
            with pytest.raises(JobFailedError, match="ValueError: outer/inner"):
                await (await fail.enqueue()).result(timeout=20)
        assert order == ["inner", "outer saw outer/inner"]

    async def test_cached_ones_are_made_once_and_others_once_per_attempt(self, registry: Registry) -> None:
        made: list[str] = []

        async def cached() -> int:
            made.append("cached")
            return 1

        async def fresh() -> int:
            made.append("fresh")
            return 1

        async def both(cached: int, fresh: int) -> int:
            return cached + fresh

        @registry.task(dependencies={"cached": Provide(cached, use_cache=True), "fresh": fresh, "both": both})
        async def count(*, both: int = INJECTED, fresh: int = INJECTED) -> int:
            return both + fresh

        async with running(registry):
            for _ in range(2):
                assert await (await count.enqueue()).result(timeout=20) == 3
        assert sorted(made) == ["cached", "fresh", "fresh"]

    async def test_a_class_is_made_with_what_its_constructor_asks_for(self, registry: Registry) -> None:
        @registry.task(dependencies={"service": Service})
        async def serve(*, service: Service = INJECTED) -> str:
            return service.client.name

        async with running(registry, http):
            assert await (await serve.enqueue()).result(timeout=20) == "client"

    async def test_a_declared_name_is_no_argument_of_the_call_whatever_its_type(self, registry: Registry) -> None:
        @registry.task(dependencies={"limit": lambda: 7})
        async def capped(limit: int = 0) -> int:
            return limit

        async with running(registry) as app:
            queues = app.plugins.get(TasksPlugin).get_queues()
            job = await queues.get("default").enqueue("capped")
            assert await capped.job(job.id).result(timeout=20) == 7
            with pytest.raises(Exception, match="supplied by the worker"):
                await queues.get("default").enqueue("capped", limit=8)

    def test_what_is_no_provider_is_refused_at_its_line(self) -> None:
        with pytest.raises(ConfigurationError, match="'client' is 7; give a function that returns it"):
            Registry("test", dependencies={"client": 7})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # the mistake


class TestDirectCalls:
    async def test_a_task_is_called_like_its_function_with_its_dependencies_by_hand(self, registry: Registry) -> None:
        @registry.task
        async def greet(ctx: Context, *, user_id: int, http_client: Client = INJECTED) -> str:
            return f"{http_client.name} {user_id}"

        @registry.task
        async def plain(*, user_id: int) -> int:
            return user_id

        @registry.task
        def sync(*, user_id: int) -> int:
            return user_id

        assert await greet({}, user_id=1, http_client=Client("fake")) == "fake 1"
        assert await plain(user_id=1) == sync(user_id=1) == 1

    def test_what_a_worker_would_supply_is_asked_for_by_name(self, registry: Registry) -> None:
        @registry.task
        async def unmarked(ctx: Context, *, http_client: Client) -> None: ...

        @registry.task
        async def marked(*, user_id: int, http_client: Client = INJECTED) -> None: ...

        @registry.task
        async def with_job(*, job: CurrentJob = INJECTED) -> None: ...

        call: Any = unmarked
        with pytest.raises(DependencyError, match=r"dependency 'http_client'.*unmarked\(…, http_client=…\)"):
            call({})
        with pytest.raises(DependencyError, match=r"without its context.*unmarked\({}, …\)"):
            call(http_client=Client())
        with pytest.raises(DependencyError, match=r"marked\(…, http_client=…\)"):
            marked(user_id=1)
        with pytest.raises(DependencyError, match="without the running job 'job'"):
            with_job()
