"""How an app gets its jobs: attachment, injection, start-up, and what a route answers in an outage."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.exceptions import LitestarDeprecationWarning
from litestar.params import FromPath
from litestar.testing import AsyncTestClient, TestClient
from litestar_saq import QueueConfig as StockQueueConfig
from litestar_saq import SAQConfig, SAQPlugin
from litestar_saq import TaskQueues as StockTaskQueues

from litestar_tasks import (
    ConfigurationError,
    DashboardConfig,
    NotAttachedError,
    QueueConfig,
    QueueUnavailableError,
    Registry,
    TaskQueues,
    TasksConfig,
    TasksPlugin,
    UnknownQueueError,
)

registry = Registry("plugin")


@registry.task
async def greet(*, name: str) -> str:
    return f"Hello, {name}!"


def plugin_for(registry: Registry, **settings: Any) -> TasksPlugin:
    settings = {"broker_url": "memory://", "in_process_worker": True, "dashboard": None} | settings
    return TasksPlugin(TasksConfig(registry=registry, **settings))


@post("/greet/{name:str}")
async def create(name: FromPath[str], task_queues: NamedDependency[TaskQueues]) -> dict[str, str]:
    by_name = await task_queues.get("default").enqueue("greet", name=name)
    typed = await greet.enqueue(name=name)
    return {"by_name": await registry.job(by_name.id).result(timeout=5), "typed": await typed.result(timeout=5)}


@post("/sync/{name:str}", sync_to_thread=True)
def create_in_thread(name: FromPath[str]) -> str:
    return greet.bind(name=name).enqueue_sync().id


@get("/away")
async def away() -> None:
    raise QueueUnavailableError("default", "no answer within 2 s", job_id="saq:job:default:x", maybe_enqueued=True)


def make_app(**settings: Any) -> Litestar:
    return Litestar([create, create_in_thread, away], plugins=[plugin_for(registry, **settings)], logging_config=None)


class TestApp:
    def test_routes_enqueue_by_name_and_typed_in_three_clients_in_succession(self) -> None:
        app = make_app()
        for _ in range(3):
            with TestClient(app) as client:
                response = client.post("/greet/Ada")
                assert response.status_code == 201, response.text
                assert response.json() == {"by_name": "Hello, Ada!", "typed": "Hello, Ada!"}

    async def test_the_async_client_and_the_test_itself_enqueue_on_one_loop(self) -> None:
        async with AsyncTestClient(make_app()) as client:
            assert (await client.post("/greet/Ada")).status_code == 201
            assert await (await greet.enqueue(name="Bob")).result(timeout=5) == "Hello, Bob!"

    def test_sync_routes_enqueue_from_their_thread(self) -> None:
        with TestClient(make_app()) as client:
            assert client.post("/sync/Ada").text.startswith("saq:job:default:")

    def test_a_test_body_enqueues_into_the_clients_loop(self) -> None:
        with TestClient(make_app()):

            async def body() -> str:
                return await (await greet.enqueue(name="Eve")).result(timeout=5)

            assert asyncio.run(body()) == "Hello, Eve!"
            assert greet.bind(name="x").enqueue_sync().id

    def test_a_namespace_is_part_of_every_id(self) -> None:
        with TestClient(make_app(namespace="staging")):
            assert greet.bind(name="x").enqueue_sync().id.startswith("saq:job:staging.default:")

    def test_the_stock_annotation_works_unmarked(self) -> None:
        @post("/stock")
        async def stock(task_queues: StockTaskQueues) -> str:
            job = await task_queues.get("default").enqueue("greet", name="x")
            assert job is not None
            return job.id

        with pytest.warns(LitestarDeprecationWarning, match="Inferred dependency"):
            app = Litestar([stock], plugins=[plugin_for(registry)], logging_config=None)
        with TestClient(app) as client:
            assert client.post("/stock").status_code == 201

    def test_an_outage_is_a_503_that_says_when_to_come_back(self) -> None:
        with TestClient(make_app()) as client:
            response = client.get("/away")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "2"
            assert "saq:job" not in response.text

    def test_generic_names_are_left_out_of_the_apps_namespace(self) -> None:
        app = make_app()
        assert not {"Job", "Worker", "Queue", "QueueInfo"} & app.signature_namespace.keys()


class TestAttachment:
    async def test_without_an_app_an_enqueue_says_what_to_do(self) -> None:
        with pytest.raises(NotAttachedError, match=r"registry \'plugin\' is not attached.*async with app.lifespan\(\)"):
            await greet.enqueue(name="x")

    def test_a_client_without_its_with_block_attaches_nothing(self) -> None:
        client = TestClient(make_app())
        assert client.post("/greet/x").status_code == 500

    async def test_a_script_attaches_without_the_app(self) -> None:
        async with plugin_for(registry).attached():
            assert await (await greet.enqueue(name="x")).status() == "queued"
        with pytest.raises(NotAttachedError):
            await greet.enqueue(name="x")

    async def test_on_one_loop_the_innermost_app_wins_and_must_use_the_same_broker(self) -> None:
        async with plugin_for(registry).attached():
            async with plugin_for(registry).attached():
                await greet.enqueue(name="x")
            await greet.enqueue(name="x")
            with pytest.raises(ConfigurationError, match="give each app a registry of its own"):
                async with plugin_for(registry, namespace="other").attached():
                    pass

    def test_two_apps_on_two_loops_each_get_their_own_and_a_third_place_is_told(self) -> None:
        with TestClient(make_app()) as one, TestClient(make_app()) as other:
            assert one.post("/greet/x").status_code == other.post("/greet/x").status_code == 201
            with pytest.raises(NotAttachedError, match="several apps, none of them on this event loop"):
                greet.bind(name="x").enqueue_sync()


class TestRefusing:
    def test_stocks_plugin_beside_ours_is_refused(self) -> None:
        stock = SAQPlugin(SAQConfig(queue_configs=[StockQueueConfig(dsn="redis://127.0.0.1:1")]))
        with pytest.raises(ConfigurationError, match="TasksPlugin replaces it"):
            Litestar(plugins=[stock, plugin_for(registry)])

    def test_two_of_ours_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="two TasksPlugins"):
            Litestar(plugins=[plugin_for(registry), plugin_for(Registry("other"))])

    def test_an_unknown_queue_is_answered_with_those_that_exist(self) -> None:
        async def ask() -> None:
            async with plugin_for(registry).attached():
                with pytest.raises(UnknownQueueError, match=r"unknown queue 'emails' .*; known queues: default"):
                    await greet.using(queue="emails").enqueue(name="x")

        asyncio.run(ask())

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("localhost:6379", "unknown scheme"),
            ("amqp://user:hunter2@host", "'amqp://host' has an unknown scheme"),
            ("postgresql+psycopg://host/db", "names a driver"),
            ("redis://:p@ss/w#rd@host:6379/0", "must be percent-encoded"),
            ("redis://host:port", "cannot be read"),
            ("unix://", "names no socket"),
        ],
    )
    def test_a_broker_url_that_cannot_be_meant_is_refused_without_its_password(self, url: str, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says) as caught:
            TasksConfig(registry=registry, broker_url=url)
        assert "hunter2" not in str(caught.value)
        assert "p@ss" not in str(caught.value)

    def test_secrets_are_not_in_the_settings_repr(self) -> None:
        assert "hunter2" not in repr(TasksConfig(registry=registry, broker_url="redis://:hunter2@host"))

    @pytest.mark.parametrize(
        "settings",
        [
            {"namespace": "a:b"},
            {"enqueue_timeout": 0},
            {"queue_configs": [QueueConfig(name="a"), QueueConfig(name="a")]},
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            TasksConfig(registry=registry, **settings)

    @pytest.mark.parametrize("field", [{"burst": True}, {"dsn": "redis://x"}, {"poll_interval": 1.0}])
    def test_stock_settings_without_effect_are_refused(self, field: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            QueueConfig(**field)

    @pytest.mark.parametrize("field", ["keep_complete", "keep_failed"])
    def test_a_queue_keeps_at_least_one_record(self, field: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{field} is 0"):
            QueueConfig(**{field: 0})

    def test_a_dashboard_at_the_apps_root_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'/'"):
            DashboardConfig(path="/")
        assert DashboardConfig(path="admin/saq/").path == "/admin/saq"


def test_the_facade_names_everything_that_is_public() -> None:
    import litestar_tasks

    submodules = {name for name, value in vars(litestar_tasks).items() if isinstance(value, ModuleType)}
    public = {name for name in vars(litestar_tasks) if not name.startswith("_")} - submodules - {"annotations"}
    assert public == set(litestar_tasks.__all__)


async def test_an_in_process_worker_stops_before_what_later_plugins_opened_is_closed() -> None:
    from collections.abc import AsyncGenerator
    from contextlib import asynccontextmanager

    from litestar.config.app import AppConfig
    from litestar.plugins import InitPlugin

    events: list[str] = []
    slow_registry = Registry("slow", allow_local=True)

    @slow_registry.task
    async def slow() -> None:
        started.set()
        await asyncio.sleep(0.1)
        events.append("the job ends")

    class Database(InitPlugin):
        def on_app_init(self, app_config: AppConfig) -> AppConfig:
            @asynccontextmanager
            async def engine(app: Litestar) -> AsyncGenerator[None, None]:
                yield
                events.append("the engine closes")

            app_config.lifespan.append(engine)
            return app_config

    started = asyncio.Event()
    app = Litestar(plugins=[plugin_for(slow_registry), Database()], logging_config=None)
    async with app.lifespan():
        await slow.enqueue()
        await started.wait()
    assert events == ["the job ends", "the engine closes"]
