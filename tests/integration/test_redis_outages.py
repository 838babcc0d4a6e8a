"""What becomes of jobs, workers and callers while the server is away, hangs, restarts or refuses."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from litestar import Litestar
from saq.job import Status

from litestar_tasks import Registry, TasksConfig, TasksPlugin
from litestar_tasks.exceptions import BrokerError, QueueUnavailableError
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import ClaimedJob, Settlement, WorkerHooks
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.worker import scheduler
from tests.integration.conftest import Server, eventually

StartServer = Callable[..., Server]
MakeQueue = Callable[..., RedisQueue]
SHORT: dict[str, Any] = {"lease": 1.2, "renew_every": 0.2}


def spec(**options: Any) -> JobSpec:
    return JobSpec(task="noop", kwargs={}, **options)


async def opened(queue: RedisQueue, lost: list[str] | None = None) -> RedisQueue:
    await queue.open("w", WorkerHooks(abort=lambda *_: None, lost=(lost if lost is not None else []).extend))
    return queue


async def take(queue: RedisQueue, count: int) -> list[ClaimedJob]:
    jobs: list[ClaimedJob] = []
    async with asyncio.timeout(20):
        while len(jobs) < count:
            try:
                jobs += await queue.claim(count - len(jobs))
            except BrokerError:
                continue
    return jobs


def complete(queue: RedisQueue, job: ClaimedJob) -> asyncio.Task[bool]:
    job.status, job.result = Status.COMPLETE, "done"
    return asyncio.create_task(queue.settle(job, Settlement.COMPLETE))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "litestar_tasks.queues"]


class Proxy:
    """Stands between client and server, and can swallow what goes through without closing anything."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._gates: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return "redis://:@{}:{}/0".format(*self._server.sockets[0].getsockname()).replace(":@", "")

    def swallow(self) -> None:
        """From now on nothing passes over the connections that exist."""
        for gate in self._gates:
            gate.clear()
        self._gates.clear()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self._path)
        gate = asyncio.Event()
        gate.set()
        self._gates.append(gate)
        self._writers += [writer, there_writer]
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, target, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await gate.wait()
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            if gate.is_set():
                target.close()


@pytest.fixture
async def proxy(start_server: StartServer) -> AsyncIterator[Proxy]:
    one = Proxy(f"{start_server().folder}/s")
    yield one
    await one.close()


@pytest.mark.alone
async def test_enqueueing_into_a_hanging_server_raises_at_its_deadline_and_can_be_repeated(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server()
    queue = await opened(make_queue(server.url, enqueue_deadline=0.6))
    await queue.submit(spec(key="before"))
    server.freeze()
    start = time.monotonic()
    with pytest.raises(QueueUnavailableError) as caught:
        await queue.submit(spec(key="k"))
    assert 0.5 < time.monotonic() - start < 2
    assert (caught.value.maybe_enqueued, caught.value.job_id) == (True, "saq:job:default:k")
    with pytest.raises(QueueUnavailableError):
        await queue.submit_many([spec(key=f"many{n}") for n in range(500)])
    server.thaw()
    await eventually(lambda: _answers(queue))
    await queue.submit(spec(key="k"))
    jobs = await take(queue, 2)
    assert sorted(job.key for job in jobs if "many" not in job.key)[-1:] in (["k"], ["before"])
    found = {job.key async for job in queue.iter_jobs()}
    assert {"before", "k"} <= found


async def _answers(queue: RedisQueue) -> bool:
    try:
        return bool(await queue.redis.ping())
    except Exception:
        return False


@pytest.mark.alone
async def test_an_outage_costs_no_result_and_is_said_once(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = start_server("--appendonly", "yes")
    queue = await opened(make_queue(server.url))
    await queue.submit_many([spec(key=f"k{n}") for n in range(20)])
    jobs = await take(queue, 10)
    server.kill()
    settling = [complete(queue, job) for job in jobs]
    claiming = asyncio.create_task(take(queue, 10))
    cpu, start = time.process_time(), time.monotonic()
    await asyncio.sleep(3)
    assert (time.process_time() - cpu) / (time.monotonic() - start) < 0.2
    assert not any(task.done() for task in settling)
    server.start()
    assert await asyncio.gather(*settling) == [True] * 10
    assert {job.key for job in await claiming} == {f"k{n}" for n in range(10, 20)}
    assert await queue.status("k0") == "complete"
    said = lines(caplog)
    assert sum("does not answer" in line for line in said) == 1
    assert sum("answers again" in line for line in said) == 1
    assert "queue 'default'" in said[0]
    assert str(server.folder) in said[0]


async def test_claiming_says_that_the_server_is_away_and_paces_itself(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server()
    queue = await opened(make_queue(server.url))
    await queue.claim(1)
    server.kill()
    start, refusals = time.monotonic(), 0
    while time.monotonic() - start < 4:
        try:
            await queue.claim(1)
        except BrokerError:
            refusals += 1
    assert 1 <= refusals <= 4
    server.start()


async def test_a_server_that_stands_still_longer_than_a_lease_costs_nobody_a_job(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server()
    lost: list[str] = []
    workers = [await opened(make_queue(server.url, **SHORT), lost) for _ in range(3)]
    await workers[0].submit_many([spec(key=f"k{n}") for n in range(12)])
    held = [(queue, job) for queue in workers for job in await take(queue, 4)]
    for _ in range(2):
        server.freeze()
        await asyncio.sleep(2.5 * SHORT["lease"])
        server.thaw()
        await asyncio.sleep(1.5 * SHORT["lease"])
    assert lost == []
    assert await asyncio.gather(*(complete(queue, job) for queue, job in held)) == [True] * 12
    assert not server.client.exists("saq:default:losses")


async def test_a_worker_that_died_during_an_outage_is_found_after_it(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server()
    dead, alive = [await opened(make_queue(server.url, **SHORT)) for _ in range(2)]
    await dead.submit(spec(key="k"))
    await take(dead, 1)
    server.freeze()
    consumer: Any = dead._consumer
    consumer._lease.stop()
    consumer._recovery._task.cancel()
    for task in consumer._cycles._tasks:
        task.cancel()
    await asyncio.sleep(2 * SHORT["lease"])
    server.thaw()
    assert [job.key for job in await take(alive, 1)] == ["k"]


async def test_a_blocked_event_loop_is_not_a_dead_process(start_server: StartServer, make_queue: MakeQueue) -> None:
    server = start_server()
    lost: list[str] = []
    queue = await opened(make_queue(server.url, **SHORT), lost)
    await queue.submit(spec(key="k"))
    (job,) = await take(queue, 1)
    taken: list[int] = []

    def other_worker() -> None:
        async def run() -> None:
            other = await opened(RedisQueue.from_url(server.url, **SHORT))
            taken.extend([len(await other.claim(1)) for _ in range(3)])
            await other.disconnect()

        asyncio.run(run())

    thread = threading.Thread(target=other_worker)
    thread.start()
    time.sleep(2.5 * SHORT["lease"])  # noqa: ASYNC251  # that is the point
    thread.join()
    assert taken == [0, 0, 0]
    assert await complete(queue, job)
    assert lost == []


async def test_a_restarted_server_has_everything_that_was_accepted(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    queue = await opened(make_queue(server.url, **SHORT))
    await queue.submit_many([spec(key=f"k{n}", priority=n % 2) for n in range(100)])
    jobs = await take(queue, 7)
    for _ in range(3):
        server.kill()
        server.start()
        assert await complete(queue, jobs.pop())
    assert await asyncio.gather(*(complete(queue, job) for job in jobs)) == [True] * 4
    assert len({job.key for job in await take(queue, 93)}) == 93


async def test_a_server_that_forgot_everything_gets_a_new_lease(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    lost: list[str] = []
    queue = await opened(make_queue(server.url, **SHORT), lost)
    await queue.submit(spec(key="k"))
    await take(queue, 1)
    server.kill()
    server.start()
    await eventually(lambda: lost == ["k"])
    await queue.submit(spec(key="next"))
    assert [job.key for job in await take(queue, 1)] == ["next"]
    assert "taken for lost" in caplog.text


async def test_a_server_that_forgot_everything_gets_the_schedules_again(start_server: StartServer) -> None:
    """As after a restart without its data: workers that run on would have fired nothing until they are replaced."""
    server, registry, fired = start_server(), Registry("test", allow_local=True), 0

    @registry.scheduled_task(every=timedelta(seconds=1))
    async def tick() -> None:
        nonlocal fired
        fired += 1

    config = TasksConfig(registry=registry, broker_url=server.url, in_process_worker=True, dashboard=None)
    async with Litestar(plugins=[TasksPlugin(config)], logging_config=None).lifespan():
        await eventually(lambda: fired > 0)
        server.client.flushall()
        before = fired
        await eventually(lambda: fired > before + 1)


async def test_a_schedule_that_the_server_has_lost_is_declared_again(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that lacked the last writes."""
    monkeypatch.setattr(scheduler, "_ADVERTISE", 0.05)
    monkeypatch.setattr(scheduler, "_RECKON", 0.2)
    monkeypatch.setattr(scheduler, "_RECKONING", 1.0)
    server, registry = start_server(), Registry("test", allow_local=True)

    @registry.scheduled_task(every=timedelta(hours=1))
    async def one() -> None: ...

    @registry.scheduled_task(every=timedelta(hours=1))
    async def other() -> None: ...

    config = TasksConfig(registry=registry, broker_url=server.url, in_process_worker=True, dashboard=None)
    plugin = TasksPlugin(config)
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        schedules = plugin.get_queue("default").schedules

        async def both() -> bool:
            return (await schedules.read_all()).keys() == {"one", "other"}

        await eventually(both)
        assert await schedules.swap("other", await schedules.read("other"), None, None, None)
        assert not await both()
        await eventually(both)


async def test_a_full_server_refuses_new_jobs_and_lets_old_ones_end(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    server = start_server()
    queue = await opened(make_queue(server.url))
    await queue.submit_many([spec(key=f"k{n}") for n in range(10)])
    jobs = await take(queue, 5)
    server.client.config_set("maxmemory", 1)
    server.client.config_set("maxmemory-policy", "noeviction")
    with pytest.raises(QueueUnavailableError, match="out of memory") as caught:
        await queue.submit(spec(key="new"))
    assert not caught.value.maybe_enqueued
    assert await asyncio.gather(*(complete(queue, job) for job in jobs)) == [True] * 5
    more = await take(queue, 5)
    assert await asyncio.gather(*(complete(queue, job) for job in more)) == [True] * 5
    server.client.config_set("maxmemory", 0)
    await queue.submit(spec(key="new"))


async def test_a_server_that_became_a_replica_is_waited_for(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    queue = await opened(make_queue(server.url))
    await queue.submit(spec(key="k"))
    (job,) = await take(queue, 1)
    server.client.replicaof("127.0.0.1", "1")
    with pytest.raises(QueueUnavailableError, match="read-only replica") as caught:
        await queue.submit(spec(key="new"))
    assert not caught.value.maybe_enqueued
    settling = complete(queue, job)
    await eventually(lambda: "read-only replica" in caplog.text)
    assert not settling.done()
    server.client.replicaof("NO", "ONE")
    assert await settling


@pytest.mark.alone
async def test_a_wrong_password_is_said_without_the_password(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    server.client.config_set("requirepass", "right-one")
    queue = make_queue(server.url.replace("unix://", "unix://somebody:hunter2@"), enqueue_deadline=0.5)
    with pytest.raises(BrokerError, match="refuses the credentials") as refused:
        await queue.open("w", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    start = time.monotonic()
    with pytest.raises(QueueUnavailableError, match="refuses the credentials") as unavailable:
        await queue.submit(spec(key="k"))
    assert time.monotonic() - start < 0.4
    assert not unavailable.value.maybe_enqueued
    assert "hunter2" not in f"{refused.value}{unavailable.value}{caplog.text}{queue!r}"
    server.client.execute_command("AUTH", "right-one")


async def test_a_server_that_evicts_is_warned_of(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("--maxmemory-policy", "allkeys-lru")
    await opened(make_queue(server.url))
    assert "maxmemory-policy 'allkeys-lru'" in caplog.text


async def test_a_worker_starts_before_its_server(start_server: StartServer, make_queue: MakeQueue) -> None:
    server = start_server()
    server.kill()
    queue = await opened(make_queue(server.url))
    server.start()
    await eventually(lambda: _answers(queue))
    await queue.submit(spec(key="k"))
    assert [job.key for job in await take(queue, 1)] == ["k"]


async def test_a_connection_that_died_silently_is_noticed_by_an_idle_worker(
    proxy: Proxy, make_queue: MakeQueue
) -> None:
    queue = await opened(make_queue(await proxy.start()))
    assert await queue.claim(1) == []
    claiming = asyncio.create_task(take(queue, 1))
    await asyncio.sleep(0.2)
    proxy.swallow()
    start = time.monotonic()
    app = make_queue(f"unix://{proxy._path}")
    await app.submit(spec(key="k"))
    (job,) = await claiming
    assert time.monotonic() - start < 15
    proxy.swallow()
    assert await complete(queue, job)


async def test_an_enqueue_over_a_connection_that_died_silently_is_repeated_within_its_deadline(
    proxy: Proxy, make_queue: MakeQueue
) -> None:
    queue = make_queue(await proxy.start(), enqueue_deadline=1.0)
    await queue.submit(spec(key="first"))
    proxy.swallow()
    submission = await queue.submit(spec(key="second"))
    assert not submission.deduplicated
    assert await queue.count("queued") == 2


async def test_a_waiter_survives_an_outage(start_server: StartServer, make_queue: MakeQueue) -> None:
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    queue = await opened(make_queue(server.url))
    await queue.submit(spec(key="k"))
    waiting = asyncio.create_task(queue.wait("k", 30))
    (job,) = await take(queue, 1)
    server.kill()
    settling = complete(queue, job)
    await asyncio.sleep(0.5)
    server.start()
    assert await settling
    ended = await waiting
    assert ended is not None
    assert ended.result == "done"


async def test_stopping_while_the_server_is_away_names_what_will_run_again(
    start_server: StartServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litestar_tasks.queues.redis.consumer.CLOSING", 0.5)
    server = start_server()
    queue = await opened(make_queue(server.url))
    await queue.submit(spec(key="k"))
    (job,) = await take(queue, 1)
    server.kill()
    settling = complete(queue, job)
    await eventually(lambda: "does not answer" in caplog.text)
    start = time.monotonic()
    await queue.close()
    assert time.monotonic() - start < 6
    assert "run again once the lease has lapsed: saq:job:default:k" in caplog.text
    assert not await settling


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.alone
async def test_nobody_listening_is_said_at_once_once_it_is_known(make_queue: MakeQueue) -> None:
    queue = make_queue(f"redis://127.0.0.1:{free_port()}", enqueue_deadline=0.3)
    with pytest.raises(QueueUnavailableError) as caught:
        await queue.submit(spec())
    assert (caught.value.maybe_enqueued, caught.value.job_id) == (False, None)
    start = time.monotonic()
    for _ in range(5):
        with pytest.raises(QueueUnavailableError):
            await queue.submit(spec())
    assert time.monotonic() - start < 0.3


async def test_a_handle_says_that_the_server_is_away(start_server: StartServer, make_queue: MakeQueue) -> None:
    server = start_server()
    queue = make_queue(server.url)
    await queue.submit(JobSpec(task="noop", kwargs={}, key="k"))
    server.kill()
    for ask in (queue.status("k"), queue.job("k"), queue.cancel("k", "no need")):
        with pytest.raises(QueueUnavailableError, match="queue 'default' is unavailable"):
            await ask
    server.start()


async def test_a_handle_does_not_notice_that_the_server_was_restarted_since_it_last_asked(
    start_server: StartServer, make_queue: MakeQueue
) -> None:
    """However many connections of it have died, and whether or not the event loop has heard of it yet."""
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    queue = make_queue(server.url)
    for number in range(5):
        await queue.submit(spec(key=f"k{number}"))
    for heard in (True, False):
        assert await asyncio.gather(*(queue.status("k0") for _ in range(5))) == ["queued"] * 5
        assert await queue.job("k0") is not None
        if heard:
            assert await queue.cancel("k1", "no need")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        else:
            server.kill()
            server.start()
        assert await queue.job("k0") is not None
        assert await asyncio.gather(*(queue.status(f"k{number}") for number in (0, 2, 3))) == ["queued"] * 3
        assert len([job async for job in queue.iter_jobs()]) == 5
        if heard:
            assert await queue.cancel("k2", "no need")
            await queue.submit(spec(key="k2"))
