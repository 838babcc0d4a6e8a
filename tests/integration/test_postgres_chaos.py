"""Nothing accepted is lost, nothing healthy is harmed, on Postgres too: workers die, freeze and stop, servers die."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from litestar_tasks import TasksPlugin, enqueue_many
from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.postgres.migrations import migrate
from tests.chaos.conftest import LEASE, Ledger, WorkerProcess
from tests.chaos.ledger_app import charge, create_app, send, work, work_in_thread
from tests.homes import ABSENT
from tests.servers import PostgresServer, postgres_binaries

pytestmark = [
    pytest.mark.skipif(postgres_binaries() is None, reason="Postgres is not installed"),
    pytest.mark.usefixtures("attached"),
]

chance = random.Random(20260101)


class Field:
    """A server, workers, and what the tasks wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = PostgresServer()
        self.url = self.server.url()
        migrate(self.url, lambda _: None)
        self.ledger = Ledger(folder / "ledger")
        self.environment = {"BROKER_URL": self.url, "LEDGER": str(self.ledger.path), "LEASE": str(LEASE), **ABSENT}
        self.workers: list[WorkerProcess] = []
        self.killed: set[int] = set()

    def start_workers(self, count: int, **environment: str) -> list[WorkerProcess]:
        for _ in range(count):
            log = self.folder / f"worker-{len(self.workers)}.log"
            self.workers.append(WorkerProcess({**self.environment, **environment}, log))
        return self.workers[-count:]

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    def kill(self, worker: WorkerProcess) -> None:
        self.killed.add(worker.pid)
        worker.kill()

    async def stop(self, worker: WorkerProcess) -> None:
        await self.until(worker.is_up, what="the start of the worker that is to stop")
        assert await asyncio.to_thread(worker.stop, 60) == 0, worker.output

    def rows(self, condition: str) -> int:
        ((count,),) = self.server.execute(f"SELECT count(*) FROM litestar_tasks_jobs WHERE {condition}")
        assert isinstance(count, int)
        return count

    async def until(self, condition: Callable[[], bool], *, what: str, seconds: float = 60) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                logs = "\n".join(worker.output[-2000:] for worker in self.workers[-3:])
                pytest.fail(f"{what}: not within {seconds} s\n{logs}")
            await asyncio.sleep(0.05)

    async def until_all_ended(self, keys: list[str]) -> None:
        await self.until(lambda: self.rows("status IN ('queued', 'active')") == 0, what="an outcome of every job")
        assert set(keys) - self.ledger.entries("end").keys() == set()
        assert self.rows("owner IS NOT NULL OR token IS NOT NULL OR abort IS NOT NULL") == 0

    def assert_runs_again_are_owed_to_kills(self) -> None:
        doubled = {
            key: runs
            for key, runs in self.ledger.entries("start").items()
            if any(before.pid not in self.killed for before, _ in itertools.pairwise(runs))
        }
        assert doubled == {}

    def assert_each_ran_once(self, keys: list[str]) -> None:
        starts = self.ledger.entries("start")
        assert {key: len(starts[key]) for key in keys if len(starts[key]) != 1} == {}

    def close(self) -> None:
        for worker in self.living:
            worker.send(signal.SIGCONT)
            worker.kill()
        self.server.close()


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    battle = Field(tmp_path)
    for name, value in battle.environment.items():
        monkeypatch.setenv(name, value)
    yield battle
    battle.close()


@pytest.fixture
async def attached(field: Field) -> AsyncIterator[None]:
    """The producer's side, on the test's loop."""
    async with create_app().plugins.get(TasksPlugin).attached():
        yield


def key_of(handle: Any) -> str:
    return str(handle.id.rpartition(":")[2])


async def enqueue(count: int) -> list[str]:
    """Enqueue a mixture of jobs, and return their keys. A server that has just come back may be slow at first."""
    tasks = [chance.choice((work, work, work_in_thread, send)) for _ in range(count)]
    calls = [task.bind(seconds=chance.random() ** 3 / 5) for task in tasks]
    async with asyncio.timeout(60):
        while True:
            try:
                return [key_of(one) for one in await enqueue_many(calls)]
            except QueueUnavailableError:
                continue


async def test_every_job_reaches_its_end_though_workers_are_killed_at_random(field: Field) -> None:
    field.start_workers(2)
    keys: list[str] = []
    for _ in range(3):
        keys += await enqueue(80)
        await field.until(lambda: field.rows("status = 'active'") > 0, what="running jobs")
        await asyncio.sleep(chance.random() / 2)
        field.kill(chance.choice(field.living))
        field.start_workers(1)
    await field.until_all_ended(keys)
    field.assert_runs_again_are_owed_to_kills()


async def test_every_job_is_followed_once_though_workers_and_the_server_are_killed_at_random(field: Field) -> None:
    field.start_workers(2)
    parent = work.using(on_success=[work.bind(seconds=0), send.bind(seconds=0)], max_losses=1_000)
    keys: list[str] = []
    for number in range(3):
        keys += [key_of(one) for one in await enqueue_many([parent.bind(seconds=0.005)] * 150)]
        await field.until(lambda: field.rows("status = 'active'") > 0, what="running jobs")
        await asyncio.sleep(chance.random() / 2)
        if number == 1:
            await asyncio.to_thread(field.server.kill)
            await asyncio.to_thread(field.server.start)
            continue
        field.kill(chance.choice(field.living))
        field.start_workers(1)

    def is_over() -> bool:
        ((owed,),) = field.server.execute("SELECT count(*) FROM litestar_tasks_owed")
        return owed == 0 and field.rows("status IN ('queued', 'active')") == 0

    await field.until(is_over, what="an outcome of every job", seconds=90)
    children = dict(
        field.server.execute(
            "SELECT split_part(parent, ':', 4), count(*) FROM (SELECT convert_from(job, 'UTF8')::jsonb #>> "
            "'{meta,parent}' AS parent FROM litestar_tasks_jobs) AS child WHERE parent IS NOT NULL GROUP BY 1"
        )
    )
    assert {key: children.get(key) for key in keys if children.get(key) != 2} == {}


async def test_graceful_stops_under_load_double_nothing_and_leave_nothing_behind(field: Field) -> None:
    field.start_workers(1)
    keys: list[str] = []
    for _ in range(2):
        keys += await enqueue(60)
        leaving = field.living[0]
        field.start_workers(1)
        await field.stop(leaving)
    await field.until_all_ended(keys)
    field.assert_each_ran_once(keys)
    assert field.rows("losses > 0") == 0


async def test_jobs_that_outlast_the_grace_are_handed_back_at_once(field: Field) -> None:
    (worker,) = field.start_workers(1, GRACE="0")
    handle, once = await work.enqueue(seconds=1), await charge.enqueue(seconds=600)
    running = {key_of(handle), key_of(once)}
    await field.until(lambda: field.ledger.entries("start").keys() >= running, what="running jobs")
    await field.stop(worker)
    assert await handle.status() == "queued"
    assert await once.status() == "failed"
    field.start_workers(1)
    assert await handle.result(timeout=60) == "done"
    assert field.rows("losses > 0") == 0


async def test_a_frozen_worker_that_comes_back_cannot_settle_what_others_took_over(field: Field) -> None:
    (frozen,) = field.start_workers(1)
    handle = await work.enqueue(seconds=1)
    key = key_of(handle)
    await field.until(lambda: key in field.ledger.entries("start"), what="the start")
    frozen.send(signal.SIGSTOP)
    (other,) = field.start_workers(1)
    await field.until(lambda: len(field.ledger.entries("start")[key]) == 2, what="the second run")
    assert await handle.result(timeout=30) == "done"
    frozen.send(signal.SIGCONT)
    await field.until(lambda: "taken for lost" in frozen.output, what="the frozen worker's word for it")
    keys = await enqueue(20)
    await field.until(lambda: field.ledger.entries("end").keys() >= set(keys), what="both at work again")
    assert other.process.poll() is None
    assert frozen.process.poll() is None


async def test_a_server_that_is_killed_and_restarted_loses_and_doubles_nothing(field: Field) -> None:
    """A claim is as durable as a job, so not even what was claimed at the moment of the kill runs again."""
    field.start_workers(2)
    keys: list[str] = []
    for _ in range(2):
        keys += await enqueue(80)
        await field.until(lambda: field.rows("status = 'active'") > 0, what="running jobs")
        await asyncio.sleep(chance.random() / 2)
        await asyncio.to_thread(field.server.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(field.server.start)
    await field.until_all_ended(keys)
    field.assert_each_ran_once(keys)
