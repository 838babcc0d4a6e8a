"""Real workers on a real Redis, an effects ledger outside it, and what may go wrong between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.chaos.ledger_app import QUEUES, create_app, registry
from tests.homes import ABSENT
from tests.servers import RedisServer

LONG = float(os.environ.get("CHAOS", "1"))
"""How many times longer than in CI: ``make chaos`` sets it."""
FULL = 25
"""The ``CHAOS`` at which the tests reach the numbers that they are written for."""
LEASE = 2.0
PROMISE = 20.0
"""Seconds within which the jobs of a lost worker go on elsewhere, with the lease that users get by default."""
TOKENS = 2**27
"""Fencing tokens of one incarnation, in the scores of the jobs that are claimed."""
_OF_UNFINISHED = frozenset(
    {"incomplete", "losses", "prio", "max_losses", "aborts", "bonds", "locks", "turns", "parked", "group"}
    | {"follows", "owed"}
)
TALLY = pytest.StashKey[dict[str, list[str]]]()


def times(short: int, full: int) -> int:
    """How often something is done: ``short`` in CI, ``full`` in the long version, more in a longer one."""
    return max(short, round(full * LONG / FULL))


class WorkerProcess:
    """One worker, as ``litestar workers run`` starts it."""

    def __init__(self, environment: dict[str, str], log: Path, app: str = "tests.chaos.ledger_app:create_app") -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "litestar_tasks.cli.process", "worker", app],
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
        return re.search(r"worker \d+ runs ", self.output) is not None

    @property
    def output(self) -> str:
        return self.log.read_text()


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody noted something about a job."""

    pid: int
    moment: float


class Ledger:
    """What the tasks wrote, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._entries: dict[str, dict[str, list[Entry]]] = {"start": defaultdict(list), "end": defaultdict(list)}

    def entries(self, what: str) -> dict[str, list[Entry]]:
        """Who noted it, by job key, in order."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read += len(whole) + len(newline)
            for line in whole.decode().splitlines():
                said, key, pid, moment = line.split()
                self._entries[said][key].append(Entry(int(pid), float(moment)))
        return self._entries[what]


class Field:
    """The battlefield: a server, workers, a ledger, and the plugin through which the test enqueues."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.ledger = Ledger(folder / "ledger")
        self.workers: list[WorkerProcess] = []
        self.accepted: set[str] = set()
        self.killed: dict[int, float] = {}
        """Pids of workers that were killed, and when."""
        self.stopped: dict[int, float] = {}
        """Likewise of those that were told to stop, and hand back what they run."""
        self.counts: Counter[str] = Counter()
        self.environment = {"BROKER_URL": server.url, "LEDGER": str(self.ledger.path), "LEASE": str(LEASE), **ABSENT}

    def start_worker(self, **environment: str) -> WorkerProcess:
        worker = WorkerProcess({**self.environment, **environment}, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int, **environment: str) -> None:
        for _ in range(count):
            self.start_worker(**environment)

    @property
    def living(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.process.poll() is None]

    def kill(self, worker: WorkerProcess) -> None:
        self.killed[worker.pid] = time.monotonic()
        worker.kill()
        self.counts["workers killed"] += 1

    async def kill_beside_another(self, worker: WorkerProcess) -> None:
        """Kill a worker once another one works: it takes one that lives to recover what the dead one had."""
        others = [other for other in self.living if other is not worker]
        await self.until(lambda: any(other.is_up() for other in others), seconds=60, what="the start of another worker")
        self.kill(worker)

    async def stop(self, worker: WorkerProcess) -> None:
        """Stop a worker as a deploy does."""
        await self.until(worker.is_up, seconds=30, what="the start of the worker that is to stop")
        self.stopped[worker.pid] = time.monotonic()
        assert await asyncio.to_thread(worker.stop, 60) == 0, worker.output
        self.counts["graceful stops"] += 1

    def renew_server(self) -> None:
        """Put a server without data and without scripts into the place of the one that is there."""
        self.server.kill()
        for data in self.server.folder.glob("appendonly*"):
            shutil.rmtree(data) if data.is_dir() else data.unlink()
        self.server.start()
        assert self.server.client.dbsize() == 0

    def starts(self) -> dict[str, list[Entry]]:
        return self.ledger.entries("start")

    def ends(self) -> dict[str, list[Entry]]:
        return self.ledger.entries("end")

    def runs(self, key: str) -> list[tuple[float, float]]:
        """When a job's code began and when it ended, run by run: by itself, or with its worker."""
        ends = [*self.ends().get(key, ())]
        found: list[tuple[float, float]] = []
        for start in self.starts().get(key, ()):
            own = [end.moment for end in ends if end.pid == start.pid and end.moment >= start.moment]
            stopped = [moment for pid, moment in (self.killed | self.stopped).items() if pid == start.pid]
            found.append((start.moment, min([*own, *stopped], default=math.inf)))
        return found

    # What the server says

    def active(self) -> int:
        """Jobs that somebody has claimed and not settled."""
        return sum(len(tokens) for tokens, _ in self._claims())

    def ownerless(self) -> int:
        """Jobs that are claimed under a lease that is not there, so that nobody would ever recover them."""
        return sum(token // TOKENS not in leases for tokens, leases in self._claims() for token in tokens)

    def _claims(self) -> list[tuple[list[int], set[int]]]:
        """For each queue the tokens under which jobs are claimed, and the incarnations that hold a lease."""
        claims: list[tuple[list[int], set[int]]] = []
        with redis.Redis.from_url(self.server.url) as client:
            for queue in QUEUES:
                pipeline: Any = client.pipeline(transaction=True)  # one moment
                pipeline.zrangebyscore(f"saq:{queue}:incomplete", "-inf", "(0", withscores=True)
                pipeline.zrange(f"saq:{queue}:leases", 0, -1)
                held, leases = pipeline.execute()
                claims.append(
                    ([int(-score) for _, score in held], {int(holder.partition(b":")[0]) for holder in leases})
                )
        return claims

    def unfinished(self) -> set[str]:
        """The keys of the jobs without an outcome."""
        client: Any = self.server.client
        ids = [job_id for queue in QUEUES for job_id in client.zrange(f"saq:{queue}:incomplete", 0, -1)]
        return {job_id.decode().rpartition(":")[2] for job_id in ids}

    def failed(self) -> dict[str, str]:
        """The errors of the jobs that failed, by their keys."""
        client: Any = self.server.client
        ids = [job_id.decode() for queue in QUEUES for job_id in client.zrange(f"saq:{queue}:failed", 0, -1)]
        return {job_id.rpartition(":")[2]: client.get(job_id).decode() for job_id in ids}

    def children(self) -> Counter[str]:
        """How many follow-ups each job has, by its key."""
        client: Any = self.server.client
        records = [json.loads(client.get(name)) for name in client.scan_iter("saq:job:*", count=1000)]
        parents = [record["meta"]["parent"] for record in records if "parent" in record.get("meta", {})]
        return Counter(parent.rpartition(":")[2] for parent in parents)

    def leftovers(self) -> list[str]:
        """What the server still holds about jobs although all of them have an outcome."""
        client: Any = self.server.client
        found: list[str] = []
        for name in client.scan_iter("saq:*"):
            key = name.decode()
            _, queue, *rest = key.split(":")
            if queue not in QUEUES:
                continue
            # A bell may lie in a list: it is an id that no job has.
            waits = rest[0] in {"queued", "inbox"} and set(client.lrange(key, 0, -1)) - {b"-"}
            if waits or rest[0] in _OF_UNFINISHED:
                found.append(key)
        return found

    # What is to be waited for, and what has to hold

    async def until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(worker.output[-2000:] for worker in self.workers[-3:])
                pytest.fail(f"{what}: not within {seconds} s\n{logs}")
            await asyncio.sleep(0.05)

    async def until_all_ended(self, keys: Collection[str], *, seconds: float = 60) -> None:
        """Wait for the outcome of every job, and see that nothing of them is left behind."""
        await self.until(lambda: not self.unfinished(), seconds=seconds, what="an outcome of every job")
        await self.until(lambda: not self.leftovers(), seconds=10, what="nothing left behind")
        assert set(keys) - self.ends().keys() - self.failed().keys() == set(), "jobs without an outcome"

    def assert_runs_again_are_owed_to_kills(self) -> None:
        """A job ran again only if the worker of each earlier run had been killed, and then soon."""
        doubled = {
            key: runs
            for key, runs in self.starts().items()
            if not all(itertools.starmap(self._owed_to_kill, itertools.pairwise(runs)))
        }
        assert doubled == {}
        late = [pause for pause in self.pauses() if pause > PROMISE]
        assert late == []

    def pauses(self) -> list[float]:
        """For each run that followed a kill, how long after it."""
        return [
            after.moment - self.killed[before.pid]
            for runs in self.starts().values()
            for before, after in itertools.pairwise(runs)
            if self._owed_to_kill(before, after)
        ]

    def _owed_to_kill(self, before: Entry, after: Entry) -> bool:
        return self.killed.get(before.pid, math.inf) <= after.moment

    def assert_each_ran_once(self, keys: Collection[str]) -> None:
        counts = Counter({key: len(runs) for key, runs in self.starts().items()})
        assert {key: counts[key] for key in keys if counts[key] != 1} == {}

    def summary(self) -> str:
        starts = self.starts()
        runs = sum(map(len, starts.values()))
        pauses = self.pauses()
        told = [f"{len(self.accepted)} jobs accepted", f"{runs} runs", f"{runs - len(starts)} of them runs again"]
        if pauses:
            told.append(f"the last {max(pauses):.1f} s after the kill")
        told += [f"{count} {what}" for what, count in self.counts.items()]
        return ", ".join(told)

    def close(self) -> None:
        for worker in self.living:
            worker.send(signal.SIGCONT)
            worker.kill()
        self.server.close()


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Field]:
    """Where a test is parametrised with it, the parameter is a value of the server's ``appendfsync``."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", getattr(request, "param", "everysec"))
    battle = Field(tmp_path, server)
    for name, value in battle.environment.items():
        monkeypatch.setenv(name, value)
    yield battle
    battle.close()
    tally = request.config.stash.setdefault(TALLY, {})
    tally.setdefault(request.node.name.removeprefix("test_").replace("_", " "), []).append(battle.summary())


@pytest.fixture
async def plugin(field: Field) -> AsyncIterator[Any]:
    """The producer's side, attached on the test's loop."""
    from litestar_tasks import TasksPlugin

    app = create_app()
    found = app.plugins.get(TasksPlugin)
    async with found.attached():
        yield found
    assert registry.get_all_tasks()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what has been gone through: a long run is worth quoting."""
    tally = config.stash.get(TALLY, {})
    if tally:
        terminalreporter.section(f"chaos, {LONG:g} times")
    for name, lines in tally.items():
        for line in lines:
            terminalreporter.write_line(f"{name}: {line}")
