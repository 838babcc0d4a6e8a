"""The worker on Redis: running jobs that others recover around, abort, enqueue from elsewhere, or want run again."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import pytest
import saq.queue.redis
from litestar import Litestar
from litestar_saq import monitored_job
from saq.job import Job, Status
from saq.types import Context

from litestar_tasks import Constant, CurrentJob, JobAbortedError, Registry, TasksConfig, TasksPlugin, enqueue_many
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import WorkerHooks
from litestar_tasks.queues.redis import RedisQueue
from tests.integration.conftest import Server, eventually
from tests.integration.test_redis_queue import Hand

MakeQueue = Callable[..., RedisQueue]


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True)


@asynccontextmanager
async def running(
    registry: Registry, url: str, *, lease: float = 15, grace: int = 5, concurrency: int = 10
) -> AsyncGenerator[TasksPlugin, None]:
    """An app with a worker of its own."""
    settings = {"concurrency": concurrency, "shutdown_grace_period_s": grace}
    plugin = TasksPlugin(
        TasksConfig(
            registry=registry,
            broker_url=url,
            queue_configs=registry.queue_configs(default=settings),
            lease=lease,
            dashboard=None,
            in_process_worker=True,
        )
    )
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        yield plugin


async def stored(queue: Any, key: str) -> Job:
    job = await queue.job(key)
    assert job is not None
    return job


async def test_a_hundred_passes_of_recovery_over_a_busy_queue_harm_no_job(
    registry: Registry, redis_url: str, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Two others look for lost workers all the time, and compare what is claimed with what they know."""
    caplog.set_level(logging.WARNING, "litestar_tasks")
    runs: Counter[int] = Counter()

    @registry.task
    async def short(*, number: int) -> int:
        runs[number] += 1
        await asyncio.sleep(0.005)
        return number

    others = [make_queue(redis_url) for _ in range(2)]
    for other in others:
        await other.open("other", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    async with running(registry, redis_url):
        passes = 0
        handles: list[Any] = []
        while passes < 100:
            handles += await enqueue_many(short.bind(number=len(handles) + n) for n in range(20))
            for other in others:
                await other.sweep()
                passes += 1
        results = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    assert results == list(range(len(handles)))
    assert runs == Counter(results)
    assert [record.getMessage() for record in caplog.records] == []


async def test_the_record_of_a_complete_job_says_everything_whatever_its_task_did(
    registry: Registry, redis_url: str, server: Server
) -> None:
    """Where a task cannot have changed its job, its end is written behind the record that was claimed."""

    @registry.task
    async def plain(*, text: str) -> list[Any]:
        return [text, None]

    @registry.task
    async def changing(ctx: Context, *, text: str) -> list[Any]:
        job: Any = ctx["job"]
        job.meta["changed"] = text
        return [text, None]

    @registry.task(max_attempts=2, backoff=Constant(0))
    async def failing_once(*, text: str) -> list[Any]:
        tries.append(text)
        if len(tries) == 1:
            raise ValueError("for once")
        return [text, None]

    tries: list[str] = []
    stock = saq.queue.redis.RedisQueue.from_url(redis_url)
    text = '"}é,"status":"failed"'
    sizes: dict[str, int] = {}
    async with running(registry, redis_url):
        for task in (plain, changing, failing_once):
            before = int(time.time() * 1000)
            handle = await task.using(key=task.name).enqueue(text=text)
            assert await handle.result(timeout=30) == [text, None]
            document = server.client.get(handle.id)
            assert isinstance(document, bytes)
            sizes[task.name] = len(document)
            for job in (await stock.job(task.name), await stored(registry.attachment().queue("default"), task.name)):
                assert job is not None
                assert (job.status, job.result, job.error, job.progress) == (Status.COMPLETE, [text, None], None, 1.0)
                assert (job.function, job.kwargs, job.key) == (task.name, {"text": text}, task.name)
                assert job.attempts == (2 if task is failing_once else 1)
                assert before <= job.queued <= job.started <= job.completed == job.touched
                assert job.meta.get("changed") == (text if task is changing else None)
                assert job.worker_id
    await stock.disconnect()
    assert server.client.ttl("saq:job:default:plain") > 80_000
    assert sizes["plain"] < sizes["changing"] + 200


async def test_unreadable_records_of_a_lost_worker_keep_no_other_job_from_being_recovered(
    registry: Registry, redis_url: str, server: Server, make_queue: MakeQueue
) -> None:
    ran: set[int] = set()

    @registry.task
    async def job(*, number: int) -> None:
        ran.add(number)

    dying = await Hand(make_queue(redis_url, lease=1.2, renew_every=0.2)).open("dying")
    await dying.queue.submit_many([JobSpec(task="job", kwargs={"number": n}, key=f"k{n}") for n in range(9)])
    await dying.take(9)
    for number, garbage in ((0, b""), (4, b"\xff{"), (8, b'{"function": "job", "shiny": 1}')):
        server.client.set(f"saq:job:default:k{number}", garbage)
    dying.vanish()
    async with running(registry, redis_url):
        await eventually(lambda: server.client.zcard("saq:default:incomplete") == 0, within=30)
    assert ran == {1, 2, 3, 5, 6, 7}
    assert server.client.zcard("saq:default:quarantined") == 3


async def test_a_job_that_is_aborted_while_it_runs_keeps_its_progress_and_its_meta(
    registry: Registry, redis_url: str
) -> None:
    let_go = asyncio.Event()

    @registry.task(max_attempts=3)
    async def long(ctx: Context, *, job: CurrentJob) -> None:
        await job.set_progress(0.5)
        await ctx["job"].update(meta={**ctx["job"].meta, "step": 7})
        try:
            await asyncio.sleep(100)
        finally:
            await let_go.wait()

    async with running(registry, redis_url) as plugin:
        queue = plugin.get_queue("default")
        await long.using(key="k").enqueue()
        # What the caller holds is from before the task said anything.
        await eventually(lambda: _is(queue, "k", Status.ACTIVE))
        stale = await stored(queue, "k")
        await eventually(lambda: _has_step(queue, "k"))
        await stale.abort("enough")
        during = await stored(queue, "k")
        assert (during.status, during.progress, during.meta["step"]) == (Status.ACTIVE, 0.5, 7)
        assert during.started
        let_go.set()
        await eventually(lambda: _is(queue, "k", Status.ABORTED))
        after = await stored(queue, "k")
    assert (after.progress, after.meta["step"], after.attempts, after.error) == (0.5, 7, 1, "enough")
    assert after.started == during.started


async def _is(queue: Any, key: str, status: Status) -> bool:
    return (await stored(queue, key)).status is status


async def _has_step(queue: Any, key: str) -> bool:
    return "step" in (await stored(queue, key)).meta


async def test_a_job_that_cannot_be_cancelled_keeps_no_other_abort_waiting(registry: Registry, redis_url: str) -> None:
    started: set[str] = set()
    released = asyncio.Event()

    @registry.task
    async def stubborn() -> str:
        started.add("stubborn")
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return "none the less"

    @registry.task
    async def obedient() -> None:
        started.add("obedient")
        await asyncio.sleep(100)

    async with running(registry, redis_url):
        first, second = await stubborn.enqueue(), await obedient.enqueue()
        await eventually(lambda: len(started) == 2)
        assert await first.abort()
        assert await second.abort("and you")
        with pytest.raises(JobAbortedError, match="and you"):
            await second.result(timeout=10)
        assert await first.status() == "active"
        released.set()
        # It ended as it wished: its work is done, and what was done is what is said.
        assert await first.result(timeout=10) == "none the less"


async def test_an_abort_of_a_job_that_sleeps_is_heeded_long_before_the_job_would_end(
    registry: Registry, redis_url: str
) -> None:
    """Even of one that has only just begun; the message arrives, nobody polls for it."""
    started = asyncio.Event()

    @registry.task
    async def brief() -> None:
        started.set()
        await asyncio.sleep(1.5)

    async with running(registry, redis_url):
        for _ in range(5):
            started.clear()
            handle = await brief.enqueue()
            await started.wait()
            assert await handle.abort()
            with pytest.raises(JobAbortedError):
                await handle.result(timeout=10)


async def test_a_running_job_is_not_run_again_by_saqs_retry_and_a_finished_one_starts_anew(
    registry: Registry, redis_url: str
) -> None:
    starts: list[int] = []
    released = asyncio.Event()

    @registry.task
    async def once(ctx: Context) -> None:
        starts.append(ctx["job"].attempts)
        await released.wait()

    async with running(registry, redis_url) as plugin:
        queue = plugin.get_queue("default")
        handle = await once.using(key="k").enqueue()
        await eventually(lambda: len(starts) == 1)
        with pytest.raises(ValueError, match="has not ended"):
            await (await stored(queue, "k")).retry("again")
        released.set()
        await handle.result(timeout=10)
        assert len(starts) == 1
        await (await stored(queue, "k")).retry("now")
        await eventually(lambda: len(starts) == 2)
        await handle.result(timeout=10)
    assert starts == [0, 0]


async def test_the_heartbeat_of_stock_jobs_is_accepted_and_changes_nothing(
    registry: Registry, redis_url: str, make_queue: MakeQueue
) -> None:
    """With stock workers the heartbeat decides who lives; here the worker's lease does, and nobody has to beat."""
    runs: list[str] = []

    @registry.task
    @monitored_job(interval=0.1)
    async def monitored(ctx: Context) -> str:
        runs.append("monitored")
        await asyncio.sleep(2.5)
        return "alive"

    @registry.task
    async def silent() -> str:
        runs.append("silent")
        await asyncio.sleep(2.5)
        return "alive"

    other = make_queue(redis_url)
    await other.open("other", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    async with running(registry, redis_url) as plugin:
        queue = plugin.get_queue("default")
        jobs = [await queue.enqueue(Job(name, key=name, heartbeat=1, timeout=0)) for name in ("monitored", "silent")]
        await eventually(lambda: len(runs) == 2)
        deadline = time.monotonic() + 30
        while not all([await _is(queue, job.key, Status.COMPLETE) for job in jobs]):
            assert time.monotonic() < deadline
            await other.sweep()
            await asyncio.sleep(0.1)
        ended = [await stored(queue, job.key) for job in jobs]
    assert runs == ["monitored", "silent"]
    assert [(job.result, job.attempts, job.heartbeat) for job in ended] == [("alive", 1, 1)] * 2


async def test_a_worker_with_a_long_grace_leaves_as_soon_as_nothing_runs(registry: Registry, redis_url: str) -> None:
    started = asyncio.Event()

    @registry.task
    async def job() -> str:
        started.set()
        await asyncio.sleep(0.5)
        return "done"

    before = time.monotonic()
    async with running(registry, redis_url, grace=60):
        pass
    async with running(registry, redis_url, grace=60):
        handle = await job.enqueue()
        await started.wait()
    assert time.monotonic() - before < 40
    async with running(Registry("other"), redis_url) as plugin:
        assert (await stored(plugin.get_queue("default"), handle.id.rpartition(":")[2])).status is Status.COMPLETE


@pytest.mark.parametrize("trouble", ["killed", "frozen", "read-only", "password"])
async def test_a_worker_whose_server_is_in_trouble_says_so_once_and_hardly_works(
    registry: Registry, start_server: Callable[..., Server], trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks")
    started = asyncio.Event()

    @registry.task
    async def long() -> None:
        started.set()
        await asyncio.sleep(1)

    # A kill must lose nothing: under "everysec" a slow disk puts writes off that were answered.
    server = start_server("--appendonly", "yes", "--appendfsync", "always")
    async with running(registry, server.url, lease=60):
        handle = await long.enqueue()
        await started.wait()
        match trouble:
            case "killed":
                server.kill()
            case "frozen":
                server.freeze()
            case "read-only":
                server.client.replicaof("127.0.0.1", "1")
            case "password":
                server.client.config_set("requirepass", "another")
                server.client.execute_command("AUTH", "another")
                for kind in ("normal", "pubsub"):
                    server.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        caplog.clear()
        cpu, start = time.process_time(), time.monotonic()
        await asyncio.sleep(3)
        # A server that only stands still is missed when an answer is overdue.
        await eventually(lambda: "does not answer" in caplog.text, within=30)
        share = (time.process_time() - cpu) / (time.monotonic() - start)
        said = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
        match trouble:
            case "killed":
                server.start()
            case "frozen":
                server.thaw()
            case "read-only":
                server.client.replicaof("NO", "ONE")
            case "password":
                server.client.config_set("requirepass", "")
        await handle.result(timeout=30)
    # A twentieth of a core is the aim; a loop without a pause takes two thirds of one.
    assert share < 0.2
    # Once for each change: the answer to a question from before may still come in, and be followed by a refusal.
    assert 1 <= len(said) <= 2
    assert "queue 'default'" in said[0]
    assert str(server.folder) in said[0]


ELSEWHERE = """
import asyncio, sys
from datetime import date
from litestar_tasks import Registry, TasksConfig, TasksPlugin

registry = Registry("elsewhere")

@registry.task
async def due(*, day: date) -> date:
    raise AssertionError("not here")

async def main(url, id):
    async with TasksPlugin(TasksConfig(registry=registry, broker_url=url)).attached():
        typed, untyped = due.job(id), registry.job(id)
        statuses = [event.status async for event in untyped.events()]
        print(statuses[-1], repr(await typed.result(timeout=60)), repr(await untyped.result(timeout=60)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.usefixtures("light_starts")
async def test_another_process_follows_a_job_by_its_id(registry: Registry, redis_url: str) -> None:
    @registry.task
    async def due(*, day: date) -> date:
        return day

    async with running(registry, redis_url):
        job = await due.enqueue(day=date(2026, 1, 2))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ELSEWHERE, redis_url, job.id, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert said.decode().strip() == "complete datetime.date(2026, 1, 2) '2026-01-02'"
