"""An app with a worker of its own, on each kind of broker."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol, TypeAlias

import pytest
from litestar import Litestar

from litestar_tasks import Constant, Registry, TasksConfig, TasksPlugin
from litestar_tasks.queues.postgres.migrations import migrate
from tests.servers import BINARIES, PostgresServer, RedisServer, postgres_binaries


class Broker(Protocol):
    """One broker of the session."""

    url: str

    def raw(self, plugin: TasksPlugin, *queues: str) -> bytes:
        """Everything that it holds, or has ever written, as bytes."""
        ...

    def close(self) -> None: ...


class Memory:
    url = "memory://"

    def raw(self, plugin: TasksPlugin, *queues: str) -> bytes:
        found: list[Any] = [plugin.get_queue(label) for label in queues]
        return b"\n".join(record for queue in found for record in queue._state.records.values())

    def close(self) -> None:
        pass


class Redis:
    def __init__(self) -> None:
        self._server = RedisServer("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
        self.url = self._server.url

    def raw(self, plugin: TasksPlugin, *queues: str) -> bytes:
        return _all_files(self._server.folder)

    def close(self) -> None:
        self._server.close()


class Postgres:
    def __init__(self) -> None:
        self._server = PostgresServer()
        self.url = self._server.create_database()
        migrate(self.url, lambda _: None)

    def raw(self, plugin: TasksPlugin, *queues: str) -> bytes:
        self._server.execute("CHECKPOINT")
        return _all_files(self._server.folder / "data" / "base") + _all_files(self._server.folder / "data" / "pg_wal")

    def close(self) -> None:
        self._server.close()


def _all_files(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture(scope="session", params=["memory", "redis", "postgres"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    missing = {"redis": not BINARIES, "postgres": postgres_binaries() is None}
    if missing.get(request.param):
        if os.environ.get("CI"):
            pytest.fail(f"{request.param} is not installed on this machine")
        pytest.skip(f"{request.param} is not installed on this machine")
    made: dict[str, Callable[[], Broker]] = {"memory": Memory, "redis": Redis, "postgres": Postgres}
    one = made[request.param]()
    yield one
    one.close()


@pytest.fixture
def registry() -> Registry:
    """A registry that takes the functions of a test, and does not wait long between attempts."""
    return Registry("test", allow_local=True, backoff=Constant(0.01))


Run: TypeAlias = Callable[..., AbstractAsyncContextManager[TasksPlugin]]


@pytest.fixture
def run(broker: Broker) -> Run:
    """Runs an app with a registry, and a worker unless ``worker=False``; the settings are those of ``TasksConfig``.

    What else is given is the app's. Apps of one test share their queues, but for those in memory.
    """
    namespace = token_hex(6)

    @asynccontextmanager
    async def run(
        registry: Registry, *, worker: bool = True, app: dict[str, Any] | None = None, **settings: Any
    ) -> AsyncGenerator[TasksPlugin, None]:
        settings = {"enqueue_timeout": 10.0, "dashboard": None, "namespace": namespace, **settings}
        config = TasksConfig(registry=registry, broker_url=broker.url, in_process_worker=worker, **settings)
        plugin = TasksPlugin(config)
        options: dict[str, Any] = {"logging_config": None, **(app or {})}
        async with Litestar(**{**options, "plugins": [*options.get("plugins", ()), plugin]}).lifespan():
            yield plugin

    return run
