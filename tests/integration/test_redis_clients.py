"""Whatever URL or client a queue is given, it makes connections of its own, on its own terms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis.asyncio

from litestar_tasks import Registry, TasksConfig, TasksPlugin
from litestar_tasks.queues.base import Settlement, WorkerHooks
from litestar_tasks.queues.redis import RedisQueue
from tests.homes import free_port
from tests.servers import RedisServer

registry = Registry("clients")


@registry.task
async def greet(*, name: str) -> str:
    return f"Hello, {name}!"


async def test_a_client_that_decodes_and_has_one_connection_serves_as_an_address(server: RedisServer) -> None:
    given = redis.asyncio.Redis.from_url(server.url, decode_responses=True, max_connections=1)
    queue = RedisQueue(given, registry=registry)
    try:
        await queue.connect()
        await queue.open("worker", WorkerHooks(abort=lambda key, reason: None, lost=lambda keys: None))
        jobs = await asyncio.gather(*(queue.enqueue("greet", name=str(number)) for number in range(20)))
        claimed = await queue.claim(20)
        while len(claimed) < 20:
            claimed += await queue.claim(20)
        # Claiming goes on in the background of all of these, and each has its answer.
        assert (await queue.info(jobs=True))["active"] == 20
        assert (await queue.counts())["active"] == 20
        assert {job.key for job in claimed} == {job.key for job in jobs}
        assert all(await asyncio.gather(*(queue.settle(job, Settlement.HAND_BACK) for job in claimed)))
        assert await queue.sweep() == []
    finally:
        await queue.disconnect()
        await given.aclose()


@pytest.mark.parametrize("scheme", ["redis", "REDIS", "valkey"])
def test_a_url_means_the_same_however_it_is_spelled(start_server: Callable[..., RedisServer], scheme: str) -> None:
    port = free_port()
    server = start_server("--port", str(port))
    config = TasksConfig(registry=registry, broker_url=f"{scheme}://127.0.0.1:{port}/0")

    async def enqueue() -> str:
        async with TasksPlugin(config).attached():
            return (await greet.enqueue(name="Ada")).id

    assert server.client.exists(asyncio.run(enqueue())) == 1


def test_so_does_one_of_a_socket(server: RedisServer) -> None:
    config = TasksConfig(registry=registry, broker_url=server.url.replace("unix:", "UNIX:"))

    async def enqueue() -> str:
        async with TasksPlugin(config).attached():
            return (await greet.enqueue(name="Ada")).id

    assert server.client.exists(asyncio.run(enqueue())) == 1
