"""Many apps and event loops on one server: each has connections of its own, and none outlives its loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from litestar import Litestar, post
from litestar.params import FromPath
from litestar.testing import TestClient

from litestar_tasks import Registry, TasksConfig, TasksPlugin
from tests.servers import RedisServer

registry = Registry("loops")


@registry.task
async def greet(*, name: str) -> str:
    return f"Hello, {name}!"


@post("/greet/{name:str}")
async def create(name: FromPath[str]) -> str:
    return await (await greet.enqueue(name=name)).result(timeout=30)


def make_app(server: RedisServer) -> Litestar:
    config = TasksConfig(registry=registry, broker_url=server.url, in_process_worker=True, dashboard=None)
    return Litestar([create], plugins=[TasksPlugin(config)], logging_config=None)


@pytest.fixture
def strangers(server: RedisServer) -> Callable[[], int]:
    """Counts the server's clients, but for the test's own."""

    def count() -> int:
        own = server.client.client_id()
        return sum(int(client["id"]) != own for client in server.client.client_list())

    return count


def until_none(strangers: Callable[[], int]) -> None:
    deadline = time.monotonic() + 30
    while strangers():
        assert time.monotonic() < deadline, "connections are left"
        time.sleep(0.01)


def test_three_clients_of_one_app_in_succession(server: RedisServer, strangers: Callable[[], int]) -> None:
    app = make_app(server)
    for _ in range(3):
        with TestClient(app) as client:
            assert client.post("/greet/Ada").text == "Hello, Ada!"
            assert strangers() > 0
        until_none(strangers)


def test_one_event_loop_after_the_other(server: RedisServer, strangers: Callable[[], int]) -> None:
    app = make_app(server)

    async def main() -> str:
        async with app.lifespan():
            return await (await greet.enqueue(name="Bob")).result(timeout=30)

    for _ in range(2):
        assert asyncio.run(main()) == "Hello, Bob!"
        until_none(strangers)


def test_an_event_loop_in_each_of_several_threads(server: RedisServer, strangers: Callable[[], int]) -> None:
    # An app each, of one registry: each enqueue goes the way of its own event loop.
    apps = [make_app(server) for _ in range(8)]

    def serve(number: int) -> str:
        with TestClient(apps[number]) as client:
            return client.post(f"/greet/{number}").text

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(serve, range(8))) == [f"Hello, {number}!" for number in range(8)]
    until_none(strangers)


def test_threads_without_an_event_loop_use_the_app_s(server: RedisServer, strangers: Callable[[], int]) -> None:
    with TestClient(make_app(server)):
        with ThreadPoolExecutor(4) as threads:
            ids = list(threads.map(lambda number: greet.bind(name=str(number)).enqueue_sync().id, range(20)))
        assert len(set(ids)) == 20
    until_none(strangers)


def test_an_app_whose_body_fails_leaves_no_connection(server: RedisServer, strangers: Callable[[], int]) -> None:
    def fail() -> None:
        with TestClient(make_app(server)) as client:
            assert client.post("/greet/Ada").text == "Hello, Ada!"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    until_none(strangers)
