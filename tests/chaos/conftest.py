"""Real workers on a real Redis, an effects ledger outside it, and what may go wrong between them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.chaos.ledger_app import create_app, registry
from tests.servers import RedisServer

LONG = float(os.environ.get("CHAOS", "1"))
"""How many times longer than in CI: ``make chaos`` sets it."""
LEASE = 2.0


class WorkerProcess:
    """One worker, as ``litestar workers run`` starts it."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "litestar_tasks.cli.process", "worker", "tests.chaos.ledger_app:create_app"],
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
                process_group=0,
            )
        self.pid = self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout: float = 30) -> int:
        self.send(signal.SIGTERM)
        return self.process.wait(timeout)

    def is_up(self) -> bool:
        """Whether it claims jobs; before that, SIGTERM finds it importing, with nothing to hand back."""
        return "runs default" in self.output

    @property
    def output(self) -> str:
        return self.log.read_text()


class Field:
    """The battlefield: a server, workers, a ledger, and the plugin through which the test enqueues."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.ledger = folder / "ledger"
        self.workers: list[WorkerProcess] = []
        self.killed: set[int] = set()
        self.environment = {"BROKER_URL": server.url, "LEDGER": str(self.ledger), "LEASE": str(LEASE)}

    def start_worker(self, **environment: str) -> WorkerProcess:
        worker = WorkerProcess({**self.environment, **environment}, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int) -> None:
        for _ in range(count):
            self.start_worker()

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    def kill(self, worker: WorkerProcess) -> None:
        self.killed.add(worker.pid)
        worker.kill()

    def entries(self, what: str) -> dict[str, list[int]]:
        """The pids that noted something, by job key, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        if self.ledger.exists():
            for line in self.ledger.read_text().splitlines():
                said, key, pid = line.split()
                if said == what:
                    found[key].append(int(pid))
        return found

    def active(self) -> int:
        """Jobs that somebody has claimed and not settled."""
        with redis.Redis.from_url(self.server.url) as client:
            return int(client.zcount("saq:default:incomplete", "-inf", "(0"))  # type: ignore[arg-type]  # sync client

    async def until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(worker.output[-2000:] for worker in self.workers[-3:])
                pytest.fail(f"{what}: not within {seconds} s\n{logs}")
            await asyncio.sleep(0.05)

    def assert_no_run_was_doubled(self, keys: list[str]) -> None:
        """A job ran again only if the worker of each earlier run had been killed."""
        starts = self.entries("start")
        doubled = {
            key: pids
            for key in keys
            if len(pids := starts[key]) > 1 and not all(pid in self.killed for pid in pids[:-1])
        }
        assert not doubled

    def assert_each_ran_once(self, keys: list[str]) -> None:
        counts = Counter({key: len(pids) for key, pids in self.entries("start").items()})
        assert {key: counts[key] for key in keys if counts[key] != 1} == {}

    def close(self) -> None:
        for worker in self.living:
            worker.kill()
        self.server.close()


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    server = RedisServer("--appendonly", "yes")
    battle = Field(tmp_path, server)
    for name, value in battle.environment.items():
        monkeypatch.setenv(name, value)
    yield battle
    battle.close()


@pytest.fixture
async def plugin(field: Field) -> AsyncIterator[Any]:
    """The producer's side, attached on the test's loop."""
    from litestar_tasks import TasksPlugin

    app = create_app()
    found = app.plugins.get(TasksPlugin)
    async with found.attached():
        yield found
    assert registry.get_all_tasks()
