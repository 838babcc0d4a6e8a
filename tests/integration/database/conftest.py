"""Apps with a database of their own: each driver, real servers, and a broker beside it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from sqlalchemy import text

from litestar_tasks import TasksConfig, TasksPlugin
from tests.servers import PostgresServer, RedisServer, postgres_binaries

DRIVERS = ("aiosqlite", "asyncpg", "psycopg")


@pytest.fixture(autouse=True)
def _connections_that_were_given_up() -> Iterator[None]:
    """SQLAlchemy leaves a connection whose making was cancelled to the garbage collector, and psycopg warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that the tests of a module share."""
    server = new_postgres()
    yield server
    server.close()


@pytest.fixture
def start_postgres() -> Iterator[Callable[[], PostgresServer]]:
    """Starts servers that the test may do anything with."""
    servers: list[PostgresServer] = []

    def start() -> PostgresServer:
        servers.append(new_postgres())
        return servers[-1]

    yield start
    for one in servers:
        one.close()


def new_postgres() -> PostgresServer:
    if postgres_binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("Postgres is not installed")
        pytest.skip("Postgres is not installed on this machine")
    return PostgresServer()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A broker that the tests of a module share."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of its own, for each driver."""
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return as_sqlalchemy(server.create_database(), request.param)


def as_sqlalchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


# One process for each, as from a shell, but for what they all import.
_COMMANDS = r"""
import json, os, sys
import advanced_alchemy.extensions.litestar, litestar_tasks.outbox
from litestar.__main__ import run_cli

for arguments in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        sys.argv[1:] = arguments
        sys.exit(run_cli())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("\0", code, sep="", end="\0", flush=True)
"""


def litestar(folder: Path, app: str, *commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """The status and the output of each command, one after another; importing takes longer than any of them."""
    lines = json.dumps([("--app", app, *command) for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, lines],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=True,
    )
    outputs, codes = (done.stdout.split("\0")[part:-1:2] for part in (0, 1))
    return list(zip(map(int, codes), outputs, strict=True))


class DatabaseApp:
    """One process's app, and what its database holds."""

    def __init__(self, config: SQLAlchemyAsyncConfig, plugin: TasksPlugin, app: Litestar) -> None:
        self.config = config
        self.plugin = plugin
        self.app = app

    async def sql(self, statement: str, **parameters: Any) -> list[Any]:
        async with self.config.get_engine().begin() as connection:
            result = await connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []


AppT = TypeVar("AppT", bound=DatabaseApp)
Start = Callable[..., AbstractAsyncContextManager[AppT]]


def make_app(
    kind: type[AppT], url: str, broker: str, *, bind_key: str, create_all: bool = True, routes: Any = (), **options: Any
) -> AppT:
    """An app with a worker of its own, away from the reference app's models; options are those of ``TasksConfig``."""
    config = SQLAlchemyAsyncConfig(
        connection_string=url,
        bind_key=bind_key,
        create_all=create_all,
        engine_config=EngineConfig() if ":memory:" in url else EngineConfig(pool_size=5),
    )
    plugin = TasksPlugin(TasksConfig(broker_url=broker, **{"in_process_worker": True, "dashboard": None, **options}))
    app = Litestar(routes, plugins=[plugin, SQLAlchemyPlugin(config)], logging_config=None)
    return kind(config, plugin, app)


@asynccontextmanager
async def serving(one: AppT) -> AsyncIterator[AppT]:
    """Run an app for the length of a block."""
    try:
        async with one.app.lifespan():
            yield one
    finally:
        await one.config.get_engine().dispose()  # Advanced Alchemy forgets it, from a process's second app on
