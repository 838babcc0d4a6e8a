"""Whatever URL or client a queue is given, it makes connections of its own, on its own terms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio

from litestar_tasks import Registry, TasksConfig, TasksPlugin
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import Settlement, WorkerHooks
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.queues.redis.connection import Endpoint
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


@pytest.mark.parametrize("cancelled", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
async def test_who_is_cancelled_costs_no_other_command_of_its_connection(
    server: RedisServer, cancelled: tuple[int, ...]
) -> None:
    link = Endpoint.from_url(server.url).link()
    try:
        await link.call(("PING",))
        epoch = link.epoch
        slow = asyncio.create_task(link.call(("BLPOP", "nothing", "0.2")))
        echoes = [asyncio.create_task(link.call(("ECHO", f"{number}"))) for number in range(2)]
        calls: list[asyncio.Task[Any]] = [slow, *echoes]
        await asyncio.sleep(0.05)  # all of them are under way
        for number in cancelled:
            calls[number].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        for number, (one, wanted) in enumerate(zip(found, (None, b"0", b"1"), strict=True)):
            assert isinstance(one, asyncio.CancelledError) if number in cancelled else one == wanted
        assert await link.call(("ECHO", "after")) == b"after"
        assert link.epoch == epoch
    finally:
        await link.close()


async def test_a_caller_that_is_cancelled_is_no_outage_and_holds_up_no_other(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue = RedisQueue.from_url(server.url, namespace="cancelled")
    try:
        await queue.submit(JobSpec(task="noop", kwargs={}))
        for steps in range(12):
            tasks = [asyncio.create_task(queue.submit(JobSpec(task="noop", kwargs={}))) for _ in range(3)]
            asking = [asyncio.create_task(queue.counts()) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[1].cancel()
            asking[1].cancel()
            await asyncio.gather(tasks[0], tasks[2], asking[0], asking[2])
            await asyncio.gather(tasks[1], asking[1], return_exceptions=True)
        assert not caplog.records
    finally:
        await queue.disconnect()


def test_a_connection_does_not_look_for_the_version_of_redis_py_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in a file, and reading it takes longer than all else that makes a connection."""
    endpoint = Endpoint.from_url("redis://localhost")

    def look(name: str) -> str:
        raise AssertionError(f"the version of {name} was looked up")

    monkeypatch.setattr("importlib.metadata.version", look)
    endpoint.connection()


@pytest.mark.filterwarnings("ignore:Call to '__init__' function with deprecated usage:DeprecationWarning")
def test_what_a_client_says_of_itself_is_kept() -> None:
    named = redis.asyncio.Redis.from_url("redis://localhost?lib_name=shop&lib_version=1.2")
    assert "'shop'" in repr(vars(Endpoint(named).connection()))  # which keeps it elsewhere in each version of redis-py
