"""What is committed becomes one job, and nothing else does, whoever dies: who commits, who delivers, a server."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from litestar_tasks.outbox.models import outbox_table
from litestar_tasks.queues.postgres.migrations import migrate
from tests.chaos.conftest import LEASE, LONG, TALLY, Ledger, WorkerProcess, times
from tests.chaos.outbox_app import create_config
from tests.servers import PostgresServer, RedisServer, postgres_binaries

pytestmark = pytest.mark.timeout(150 * max(1, LONG))

KINDS = ("sqlite, redis", "asyncpg, redis", "psycopg, the same postgres")

chance = random.Random(20261121)


class Battle:
    """A database, a broker, processes that commit and processes that work, and what the tasks wrote."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        driver, broker = kind.split(", ")
        self.postgres = None if driver == "sqlite" else PostgresServer()
        self.redis = RedisServer("--appendonly", "yes") if broker == "redis" else None
        url = f"sqlite+aiosqlite:///{folder / 'app.sqlite3'}"
        if self.postgres is not None:
            url = self.postgres.url().replace("postgresql://", f"postgresql+{driver}://")
            migrate(self.postgres.url(), lambda _: None)
        self.environment = {
            "DATABASE_URL": url,
            "BROKER_URL": self.redis.url if self.redis else self.postgres.url() if self.postgres else "",
            "LEDGER": str(self.ledger.path),
            "LEASE": str(LEASE),
            "ENOUGH": str(folder / "enough"),
        }
        self.workers: list[WorkerProcess] = []
        self.producers: list[subprocess.Popen[bytes]] = []
        self.killed: set[int] = set()
        self.counts: Counter[str] = Counter()

    # Who lives and dies

    def start_worker(self) -> None:
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(WorkerProcess(self.environment, log, "tests.chaos.outbox_app:create_app"))

    def start_producer(self) -> None:
        name = f"p{len(self.producers)}"
        with (self.folder / f"{name}.log").open("wb") as out:
            command = [sys.executable, "-m", "tests.chaos.outbox_app", name]
            environment = {**os.environ, **self.environment}
            self.producers.append(
                subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=Path(__file__).parents[2])
            )

    @property
    def working(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    @property
    def producing(self) -> list[subprocess.Popen[bytes]]:
        return [producer for producer in self.producers if producer.poll() is None]

    def kill_producer(self) -> None:
        victim = chance.choice(self.producing)
        victim.kill()
        victim.wait()
        self.start_producer()

    def kill_worker(self) -> None:
        """It relays, too."""
        victim = chance.choice(self.working)
        self.killed.add(victim.pid)
        victim.kill()
        self.start_worker()

    def stop_producers(self) -> None:
        """Let them finish the transaction that they are in, and deliver it."""
        Path(self.environment["ENOUGH"]).touch()
        for producer in self.producing:
            assert producer.wait(60) == 0

    async def kill_redis(self) -> None:
        assert self.redis is not None
        self.redis.kill()
        await asyncio.sleep(chance.random())
        self.redis.start()

    async def kill_postgres(self) -> None:
        assert self.postgres is not None
        self.postgres.kill()
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(self.postgres.start)

    async def kill(self, what: str) -> None:
        self.counts[f"times a {what} was killed"] += 1
        if (done := getattr(self, f"kill_{what}")()) is not None:
            await done

    @property
    def victims(self) -> list[str]:
        servers = [name for name in ("redis", "postgres") if getattr(self, name) is not None]
        return ["producer", "worker", *servers]

    # What is asked

    async def until(self, condition: Callable[[], Any], *, what: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not await condition():
            if time.monotonic() > deadline:
                logs = "\n".join(worker.output[-2000:] for worker in self.workers[-3:])
                pytest.fail(f"{what}: not within {seconds} s\n{logs}")
            await asyncio.sleep(0.1)

    def starts(self) -> dict[str, list[int]]:
        """By row and job, the processes that ran it."""
        return {key: [entry.pid for entry in runs] for key, runs in self.ledger.entries("start").items()}

    def ended_rows(self) -> set[str]:
        return {key.partition("=")[0] for key in self.ledger.entries("end")}

    def close(self) -> None:
        for process in [*self.producing, *(worker.process for worker in self.working)]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for server in (self.redis, self.postgres):
            if server is not None:
                server.close()

    def summary(self) -> str:
        runs = self.starts()
        again = sum(len(pids) - 1 for pids in runs.values())
        told = [f"{self.counts.pop('committed')} rows", f"{len(runs)} jobs", f"{again} runs again"]
        return ", ".join([*told, *(f"{count} {what}" for what, count in self.counts.items())])


@pytest.fixture(params=KINDS)
def battle(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Battle]:
    if "sqlite" not in request.param and postgres_binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("Postgres is not installed")
        pytest.skip("Postgres is not installed on this machine")
    one = Battle(tmp_path, request.param)
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    yield one
    one.close()
    tally = request.config.stash.setdefault(TALLY, {})
    tally.setdefault(f"the outbox ({request.param})", []).append(one.summary())


async def test_every_row_that_was_committed_is_one_job_and_no_other_is_whoever_is_killed(battle: Battle) -> None:
    config = create_config()
    engine = config.get_engine()
    async with engine.begin() as connection:
        assert config.metadata is not None
        await connection.run_sync(outbox_table(config.metadata).create)
        await connection.execute(text("CREATE TABLE paid (n varchar(40) PRIMARY KEY)"))
    for _ in range(2):
        battle.start_worker()
        battle.start_producer()

    async def grew(by: int) -> None:
        goal = len(await rows(engine)) + by

        async def has() -> bool:
            return len(await rows(engine)) >= goal

        await battle.until(has, what=f"{goal} rows")

    for number in range(times(len(battle.victims), 150)):
        await grew(times(10, 40))
        await battle.kill(battle.victims[number % len(battle.victims)])
        if chance.random() < 0.3:
            await battle.kill(chance.choice(battle.victims))  # together with another
    await grew(10)
    await asyncio.to_thread(battle.stop_producers)

    committed = await rows(engine)
    battle.counts["committed"] = len(committed)

    async def all_ran() -> bool:
        return battle.ended_rows() >= committed

    async def nothing_waits() -> bool:
        async with engine.connect() as connection:
            return (await connection.execute(text("SELECT count(*) FROM litestar_tasks_outbox"))).scalar_one() == 0

    await battle.until(all_ran, what="a run of every job")
    await battle.until(nothing_waits, what="an empty outbox")
    await engine.dispose()

    jobs: defaultdict[str, set[str]] = defaultdict(set)
    for key in battle.starts():
        row, _, job = key.partition("=")
        jobs[row].add(job)
    assert jobs.keys() == committed
    assert {row: found for row, found in jobs.items() if len(found) != 1} == {}
    doubled = {
        key: pids
        for key, pids in battle.starts().items()
        if any(before not in battle.killed for before, _ in itertools.pairwise(pids))
    }
    assert doubled == {}


async def rows(engine: AsyncEngine) -> set[str]:
    """What is committed. A server that has just come back may have cut the connection."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with engine.connect() as connection:
                    return set((await connection.execute(text("SELECT n FROM paid"))).scalars())
            except (SQLAlchemyError, OSError):
                await asyncio.sleep(0.1)
