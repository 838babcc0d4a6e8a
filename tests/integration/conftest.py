"""Real servers for tests: each starts its own, on a unix socket in a short folder, and stops it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from litestar_tasks.queues.redis import RedisQueue
from tests.homes import Home
from tests.servers import BINARIES, RedisServer

# The name by which the tests of this folder know it.
Server = RedisServer


@pytest.fixture(scope="session", params=[pytest.param(path, id=name) for name, path in BINARIES.items()])
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(binary=request.param)
    yield server
    server.close()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server of each kind, empty. It is shared: no test may stop, freeze or configure it."""
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def redis_url(server: RedisServer) -> str:
    return server.url


@pytest.fixture
def start_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that the test may do anything with; options are the server's own."""
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(*options))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


@pytest.fixture
async def make_queue() -> AsyncIterator[Callable[..., RedisQueue]]:
    """Makes queues that are disconnected at the end, unless the test did."""
    queues: list[RedisQueue] = []

    def make(url: str, **options: object) -> RedisQueue:
        queues.append(RedisQueue.from_url(url, **{"enqueue_deadline": 10.0, **options}))
        return queues[-1]

    yield make
    for queue in queues:
        await queue.disconnect()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 30.0) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + within
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A folder for an app, in which nothing goes on running."""
    home = Home(tmp_path)
    yield home
    home.tear_down()
