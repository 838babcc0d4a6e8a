"""The end of a worker's process is noticed by the workers beside it, long before the lease lapses.

Leases are a minute long here and tests wait for less, so it cannot have been the lease.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from litestar_tasks import TasksPlugin
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import JobSpec
from litestar_tasks.queues import presence
from litestar_tasks.queues.base import WorkerHooks
from litestar_tasks.queues.presence import Process, this_process
from litestar_tasks.queues.redis import RedisQueue
from litestar_tasks.queues.redis.incarnation import TOKENS
from litestar_tasks.queues.redis.lua import LIMIT
from tests.homes import ABSENT
from tests.integration.conftest import Server, eventually
from tests.integration.recovery_app import create_app, wait, wait_in_thread, wait_once, wait_once_in_thread
from tests.integration.test_redis_scripts import LAYOUT, Redis, Worker, claimed_keys, recovered

MakeQueue = Callable[..., RedisQueue]

LEASE = 60.0
SOON = 40.0
"""Seconds for what takes two or three; a slow machine may take ten times as long, and the lease is longer still."""

linux = pytest.mark.skipif(this_process() is None, reason="the kernel does not tell which process holds a lease")


# Worker processes


class Place:
    """A server, worker processes on it, and what their tasks noted."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.client: Any = server.client
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        self._gate = folder / "gate"
        self._ledger = folder / "ledger"
        self.environment = {
            "BROKER_URL": server.url,
            "LEASE": str(LEASE),
            "CONCURRENCY": "4",
            "GATE": str(self._gate),
            "LEDGER": str(self._ledger),
            **ABSENT,
        }

    async def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it claims."""
        log = self._folder / f"worker-{len(self._workers)}.log"
        worker = self._launch(log, {**os.environ, **self.environment, **environment})

        def claims() -> bool:
            assert worker.poll() is None, log.read_text()
            return re.search(r"worker \d+ runs ", log.read_text()) is not None

        await eventually(claims, within=60)
        return worker

    def _launch(self, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        app = "tests.integration.recovery_app:create_app"
        with log.open("ab") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "litestar_tasks.cli.process", "worker", app],
                env=environment,
                stdout=out,
                stderr=out,
                process_group=0,
            )
        self._workers.append(worker)
        return worker

    def entries(self, *what: str) -> list[tuple[str, int]]:
        """Job keys and pids, in order."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return [(key, int(pid)) for said, key, pid in map(str.split, lines) if said in what]

    def runs(self, handle: JobHandle[Any]) -> list[int]:
        """The pids that started a job."""
        return [pid for key, pid in self.entries("start") if key == key_of(handle)]

    def record(self, handle: JobHandle[Any]) -> dict[str, Any]:
        return json.loads(self.client.get(handle.id) or b"null")

    def losses(self, handle: JobHandle[Any]) -> int:
        return int(self.client.hget(LAYOUT.key("losses"), handle.id) or 0)

    def open_gate(self) -> None:
        """Let the tasks end."""
        self._gate.touch()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()  # a process that was stopped dies of it, too
            worker.wait()


@pytest.fixture
def place(tmp_path: Path, start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    one = Place(tmp_path, start_server())
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    yield one
    one.close()


@pytest.fixture
async def producer(place: Place) -> AsyncIterator[None]:
    async with create_app().plugins.get(TasksPlugin).attached():
        yield


def key_of(handle: JobHandle[Any]) -> str:
    return handle.id.rpartition(":")[2]


@linux
@pytest.mark.usefixtures("producer")
async def test_the_jobs_of_a_killed_worker_go_on_on_its_machine_at_once_and_the_loss_is_counted(place: Place) -> None:
    victim = await place.start()
    handles = [await wait.enqueue() for _ in range(3)]
    once = await wait_once.enqueue()
    await eventually(lambda: all(place.runs(handle) == [victim.pid] for handle in [*handles, once]), within=30)
    sibling = await place.start()
    victim.kill()  # nobody waits for it yet: it stays a zombie
    await eventually(lambda: all(place.runs(handle) == [victim.pid, sibling.pid] for handle in handles), within=SOON)
    assert [place.losses(handle) for handle in handles] == [1, 1, 1]
    await eventually(lambda: place.record(once)["status"] == "failed", within=SOON)
    assert "its worker was lost while it ran" in place.record(once)["error"]
    sibling.kill()
    sibling.wait()
    successor = await place.start()
    await eventually(lambda: all(place.runs(handle)[2:] == [successor.pid] for handle in handles), within=SOON)
    assert [place.losses(handle) for handle in handles] == [2, 2, 2]
    place.open_gate()
    assert [await handle.result(timeout=20) for handle in handles] == ["done"] * 3
    assert place.runs(once) == [victim.pid]


@linux
@pytest.mark.usefixtures("producer")
async def test_a_job_in_its_thread_is_given_back_once_its_process_has_ended_and_never_before(place: Place) -> None:
    leaving = await place.start(LINGER="3")
    handle, once = await wait_in_thread.enqueue(), await wait_once_in_thread.enqueue()
    await eventually(lambda: place.runs(handle) == place.runs(once) == [leaving.pid], within=30)
    sibling = await place.start()
    leaving.terminate()
    left = LAYOUT.key("left")
    await eventually(lambda: place.client.scard(left) == 1, within=SOON)
    # Its worker has stopped, its process lingers, and the sibling looks at it again and again.
    lingering = True
    while lingering:
        runs, lingering = place.runs(handle), leaving.poll() is None
        assert runs == [leaving.pid] or not lingering
        await asyncio.sleep(0.01)
    assert leaving.returncode == 0
    await eventually(lambda: place.runs(handle) == [leaving.pid, sibling.pid], within=SOON)
    ran = [pid for key, pid in place.entries("start", "run") if key == key_of(handle)]
    assert leaving.pid not in ran[ran.index(sibling.pid) :]
    assert (place.losses(handle), place.record(handle).get("attempts", 0)) == (0, 0)
    await eventually(lambda: place.record(once)["status"] == "failed", within=SOON)
    assert "its worker was stopped while it ran" in place.record(once)["error"]
    await eventually(lambda: not place.client.exists(left), within=SOON)
    place.open_gate()
    assert await handle.result(timeout=20) == "done"
    assert place.runs(once) == [leaving.pid]


@pytest.mark.usefixtures("producer")
async def test_a_suspended_worker_is_not_taken_for_one_whose_process_has_ended(
    place: Place, ended: Process, make_queue: MakeQueue
) -> None:
    # Without free capacity: it does not sleep in a blocking read, into which the next job could be moved.
    suspended = await place.start(CONCURRENCY="1")
    handle = await wait.enqueue()
    await eventually(lambda: place.runs(handle) == [suspended.pid], within=30)
    suspended.send_signal(signal.SIGSTOP)
    r = Redis(place.client)
    gone = enter(r, ended.machine, ended)
    await watch(make_queue(place.server.url, label="q", lease=LEASE))
    await eventually(lambda: not holds(r, gone), within=SOON)  # it has looked at both, twice
    suspended.send_signal(signal.SIGCONT)
    place.open_gate()
    assert await handle.result(timeout=20) == "done"
    assert place.runs(handle) == [suspended.pid]
    assert place.losses(handle) == 0


# Identities, whose processes need not be workers


def enter(r: Redis, machine: str, process: Process | str) -> Worker:
    """A worker that is said to be a certain process."""
    holder, lease = uuid.uuid4().hex, int(LEASE * 1000)
    number = r.run("register", holder, lease, "worker", machine, str(process))
    return Worker(r, number, f"{number}:{holder}", lease, number * TOKENS + 1)


def holds(r: Redis, worker: Worker) -> bool:
    return r.client.zscore(LAYOUT.key("leases"), worker.holder) is not None


def losses(r: Redis) -> dict[str, int]:
    found: dict[bytes, bytes] = r.client.hgetall(LAYOUT.key("losses"))
    return {LAYOUT.job_key(job_id.decode()): int(count) for job_id, count in found.items()}


@pytest.fixture
def r(server: Server) -> Redis:
    return Redis(server.client)


@pytest.fixture
def here() -> Process:
    process = this_process()
    if process is None:
        pytest.skip("the kernel does not tell which process holds a lease")
    return process


@pytest.fixture
def ended(here: Process) -> Process:
    """A process that has ended and been waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return Process(here.machine, child.pid, here.started)


async def watch(queue: RedisQueue) -> RedisQueue:
    """Be a worker that looks for others, and claims nothing."""
    await queue.open("watcher", WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    return queue


@pytest.fixture
async def watcher(server: Server, make_queue: MakeQueue) -> RedisQueue:
    return await watch(make_queue(server.url, label="q", lease=LEASE))


@pytest.mark.usefixtures("watcher")
async def test_only_processes_of_ones_own_machine_that_are_gone_are_taken_for_lost(
    r: Redis, here: Process, ended: Process
) -> None:
    r.enqueue("alive", "elsewhere", "unknown", "strange", "reused", "gone")
    workers = {
        "alive": enter(r, here.machine, here),
        "elsewhere": enter(r, f"{here.machine}-another", ended),
        "unknown": r.worker(lease=int(LEASE * 1000)),
        "strange": enter(r, here.machine, "what is this"),
        "reused": enter(r, here.machine, Process(here.machine, here.pid, here.started - 1)),
        "gone": enter(r, here.machine, ended),
    }
    for key, worker in workers.items():
        assert worker.claim(1) == [key]
    await eventually(lambda: not holds(r, workers["reused"]) and not holds(r, workers["gone"]), within=SOON)
    assert {key for key in workers if r.state(key) == 0} == {"reused", "gone"}
    assert losses(r) == {"reused": 1, "gone": 1}
    for key in ("alive", "elsewhere", "unknown", "strange"):
        assert holds(r, workers[key])
        assert workers[key].settle("complete", key)
    assert not workers["gone"].settle("complete", "gone")


@pytest.mark.usefixtures("watcher")
async def test_a_lease_that_is_still_renewed_is_left_alone_whatever_process_it_names(r: Redis, ended: Process) -> None:
    r.enqueue("twin", "gone")
    twin, gone = enter(r, ended.machine, ended), enter(r, ended.machine, ended)
    assert (twin.claim(1), gone.claim(1)) == (["twin"], ["gone"])
    deadline = time.monotonic() + SOON
    while holds(r, gone):
        assert time.monotonic() < deadline
        r.run("renew", twin.holder, twin.lease, 0)
        await asyncio.sleep(0.005)
    assert r.run("renew", twin.holder, twin.lease, 0)[0] == 1
    assert twin.settle("complete", "twin")


@pytest.mark.usefixtures("watcher")
async def test_an_entry_without_a_lease_is_forgotten(r: Redis, ended: Process) -> None:
    worker = enter(r, ended.machine, ended)
    r.client.zrem(LAYOUT.key("leases"), worker.holder)
    await eventually(lambda: not r.client.hexists(LAYOUT.key("machines"), worker.holder), within=SOON)
    assert not r.client.hexists(LAYOUT.key(f"machine:{ended.machine}"), worker.holder)


async def test_a_job_that_no_loss_may_reach_comes_back_from_a_worker_that_left_it(
    watcher: RedisQueue, r: Redis, ended: Process
) -> None:
    for key, options in {"first": {"max_losses": 1}, "once": {"at_most_once": True}}.items():
        await watcher.submit(JobSpec(task="f", kwargs={}, key=key, meta=options))
    worker = enter(r, ended.machine, ended)
    assert worker.claim(2) == ["first", "once"]
    assert r.run("release", worker.number, LIMIT, *worker.held.values()) == [0, 0]
    await eventually(lambda: r.state("first") == 0 and r.state("once") is None, within=SOON)
    assert r.record("first")["status"] == "queued"
    assert "its worker was stopped while it ran" in r.record("once")["error"]
    assert losses(r) == {}


async def test_without_a_kernel_that_tells_workers_are_not_entered_and_their_leases_lapse(
    r: Redis, server: Server, make_queue: MakeQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_PROC", tmp_path)
    await watch(make_queue(server.url, label="q", lease=1.2, renew_every=0.2))
    assert r.client.zcard(LAYOUT.key("leases")) == 1
    assert list(r.client.scan_iter(LAYOUT.key("machine*"))) == []
    r.enqueue("a")
    lost = r.worker(lease=300)
    assert lost.claim(1) == ["a"]
    await eventually(lambda: r.state("a") == 0, within=SOON)


# The scripts


def take(r: Redis, finder: Worker, lost: Worker, moment: float | None = None, limit: int = LIMIT) -> list[Any]:
    """Recover what a certain worker left, as one that saw the end of its process."""
    if moment is None:
        moment = r.client.zscore(LAYOUT.key("leases"), lost.holder) or 0
    first, finder.token = finder.token, finder.token + limit
    return recovered(
        r.run("recover", finder.holder, first, finder.lease, limit, 3, 604_800, 10_000, lost.holder, int(moment))
    )


def test_the_guard_after_an_outage_does_not_hold_for_a_process_that_has_ended(r: Redis) -> None:
    r.enqueue("a", "b")
    silent, gone, finder = r.worker(), enter(r, "m", "1:1"), r.worker()
    assert (silent.claim(1), gone.claim(1)) == (["a"], ["b"])
    r.expire(silent)
    r.client.set(LAYOUT.key("pulse"), int(time.time() * 1000) - 60_000)  # nobody could say anything for a minute
    assert finder.recover()[:2] == [0, 0]
    assert r.client.exists(LAYOUT.key("guard"))
    assert take(r, finder, gone)[:2] == [1, 0]
    assert (r.state("a"), r.state("b")) == (-silent.held["a"], 0)
    assert finder.recover()[:2] == [0, 0]


def test_a_worker_that_renewed_since_its_end_was_seen_is_not_recovered(r: Redis) -> None:
    r.enqueue("a")
    worker, finder = enter(r, "m", "1:1"), r.worker()
    worker.claim(1)
    moment = r.client.zscore(LAYOUT.key("leases"), worker.holder) or 0
    assert take(r, finder, worker, moment - 1)[:2] == [0, 0]
    assert worker.settle("complete", "a")


def test_a_finder_without_a_lease_takes_nothing(r: Redis) -> None:
    r.enqueue("a")
    worker, finder = enter(r, "m", "1:1"), r.worker()
    worker.claim(1)
    r.client.zrem(LAYOUT.key("leases"), finder.holder)
    assert take(r, finder, worker)[:2] == [0, 0]
    assert worker.settle("complete", "a")


def test_the_many_jobs_of_an_ended_process_are_taken_in_parts_and_in_order(r: Redis) -> None:
    keys = [f"k{number:03}" for number in range(250)]
    r.enqueue(*keys[:200])
    r.enqueue(*keys[200:])
    gone, finder = enter(r, "m", "1:1"), r.worker()
    assert gone.claim(LIMIT) + gone.claim(LIMIT) == keys
    answers = [take(r, finder, gone, limit=100)[:2] for _ in range(3)]
    assert answers == [[100, 1], [100, 1], [50, 0]]
    assert not holds(r, gone)
    assert not r.client.exists(LAYOUT.key("machines"), LAYOUT.key("machine:m"))
    assert finder.claim(LIMIT) + finder.claim(LIMIT) == keys


@pytest.mark.parametrize("how", ["its lease lapses", "its process ends"])
def test_what_a_stopped_worker_left_in_threads_counts_no_loss_however_it_is_recovered(r: Redis, how: str) -> None:
    r.enqueue("idle", "thread")
    r.enqueue("idle once", "once", max_losses=1)
    worker, finder = enter(r, "m", "1:1"), r.worker()
    assert worker.claim(4) == ["idle", "thread", "idle once", "once"]
    assert r.run("release", worker.number, LIMIT, worker.held["thread"], worker.held["once"]) == [1, 0]
    assert finder.claim(5) == ["idle"]
    r.unguard()
    assert finder.recover()[0] == 0  # its lease goes on for as long as it renews it
    assert r.run("renew", worker.holder, worker.lease, 0)[:2] == [1, 3]
    if how == "its lease lapses":
        r.expire(worker)
        taken, _, _, _, lengths, data, left = finder.recover()
    else:
        taken, _, _, _, lengths, data, left = take(r, finder, worker)
    assert (taken, left, sorted(claimed_keys(lengths, data))) == (3, 1, ["idle once", "once"])
    assert finder.claim(5) == ["thread"]
    assert losses(r) == {}
    assert not holds(r, worker)
    assert not r.client.exists(LAYOUT.key("left"), LAYOUT.key("machines"), LAYOUT.key("machine:m"))


def test_what_must_not_start_twice_is_told_to_be_left_when_its_worker_stops(r: Redis) -> None:
    r.enqueue("once", max_losses=1)
    worker, finder = r.worker(), r.worker()
    worker.claim(1)
    assert r.run("release", worker.number, LIMIT) == [0, 0]
    r.unguard()
    taken, _, _, _, lengths, data, left = finder.recover()
    assert (taken, left, claimed_keys(lengths, data)) == (1, 1, ["once"])


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("register", ("u", 1, "w", "", "1:1")),
        ("register", ("u", 1, "w", "m")),
        ("register", ("u", 1, "w", "m", "")),
        ("release", (1, 1, "x")),
        ("recover", ("1:u", 1, 1, 1, 1, 1, 1, "1:v")),
        ("recover", ("1:u", 1, 1, 1, 1, 1, 1, "1:v", "x")),
    ],
)
def test_a_script_checks_its_arguments_before_it_writes(r: Redis, name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(redis.ResponseError, match="litestar-tasks: "):
        r.run(name, *args)
    assert r.client.dbsize() == 0


# What the kernel tells of a process


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a Python program that has begun when it has written a byte."""
    children: list[subprocess.Popen[bytes]] = []

    def run(program: str, *prefix: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([*prefix, sys.executable, "-c", program], stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.read(1) == b"."
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


SLEEP = "import os, time; os.write(1, b'.'); time.sleep(600)"


def process_of(child: subprocess.Popen[bytes], here: Process) -> Process:
    stat = Path(f"/proc/{child.pid}/stat").read_text()
    return Process(here.machine, child.pid, int(stat.rpartition(")")[2].split()[19]))


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_found_again_by_what_is_stored_of_it(here: Process) -> None:
    assert Process.parse(here.machine, str(here)) == here
    assert this_process() == here
    assert not here.has_ended()
    for text in ("", "1", ":1", "1:", "0:1", "-1:1", "1:1:1", "a:b"):
        assert Process.parse(here.machine, text) is None


async def test_a_process_has_ended_when_it_is_a_zombie_or_gone_but_not_when_it_is_stopped(
    here: Process, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    child = start(SLEEP)
    process = process_of(child, here)
    assert not process.has_ended()
    assert Process(here.machine, child.pid, process.started + 1).has_ended()
    child.send_signal(signal.SIGSTOP)
    await eventually(lambda: state_of(child.pid) == "T")
    assert not process.has_ended()
    child.kill()
    await eventually(process.has_ended)
    assert state_of(child.pid) == "Z"
    child.wait()
    assert process.has_ended()


async def test_a_process_has_not_ended_while_one_of_its_threads_runs_though_the_first_has(
    here: Process, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    if (exit_thread := {"x86_64": 60, "aarch64": 93}.get(platform.machine())) is None:
        pytest.skip("the number of the system call is not known here")
    child = start(
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "os.write(1, b'.')\n"
        f"ctypes.CDLL(None).syscall({exit_thread}, 0)\n"
    )
    process = process_of(child, here)
    await eventually(lambda: state_of(child.pid) == "Z")
    assert not process.has_ended()
    child.kill()
    await eventually(process.has_ended)


def test_a_process_that_is_hidden_has_not_ended_and_one_that_is_not_there_has(
    here: Process, ended: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_PROC", tmp_path)
    assert not here.has_ended()
    assert ended.has_ended()
    assert this_process() is None


SAY = "import os, runpy, sys; os.write(1, repr(runpy.run_path(sys.argv[1])['this_process']()).encode())"


@pytest.mark.parametrize("own_proc", [True, False])
def test_processes_of_another_namespace_are_on_another_machine(here: Process, *, own_proc: bool) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", *(["--mount-proc"] if own_proc else [])]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces can be made here")
    asking = [*command, sys.executable, "-c", SAY, str(presence.__file__)]
    said = subprocess.run(asking, check=True, capture_output=True, timeout=60).stdout
    if own_proc:
        assert said.startswith(b"Process(machine=")
        assert here.machine.encode() not in said
    else:
        assert said == b"None"  # its /proc shows others under its numbers
