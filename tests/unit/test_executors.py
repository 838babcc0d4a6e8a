"""Sync tasks in processes of their own: what crosses, what is refused, and how they are stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from saq.types import Context

from litestar_tasks import (
    INJECTED,
    ConfigurationError,
    CurrentJob,
    InvalidTaskError,
    JobAbortedError,
    JobDiscardedError,
    JobFailedError,
    QueueConfig,
    Registry,
    correlation_id,
)
from tests import processes
from tests.homes import ABSENT
from tests.processes import Parcel
from tests.unit.test_worker import running

pytestmark = pytest.mark.usefixtures("light_starts")


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def lingering(note: Path) -> int:
    """The id of the process that has written this note."""

    def written() -> str:
        return note.read_text() if note.exists() else ""

    await eventually(lambda: written().isdigit())
    return int(written())


async def test_it_runs_in_another_process_that_is_used_again() -> None:
    async with running(processes.registry):
        first = await (await processes.process_id.enqueue()).result(timeout=60)
        second = await (await processes.process_id.enqueue()).result(timeout=60)
        assert first == second != os.getpid()
        assert await (await processes.thread_process_id.enqueue()).result(timeout=60) == os.getpid()


async def test_processes_end_with_their_worker() -> None:
    async with running(processes.registry):
        pid = await (await processes.process_id.enqueue()).result(timeout=60)
        assert alive(pid)
    assert not alive(pid)


async def test_arguments_and_results_are_of_their_types() -> None:
    parcels = [Parcel(UUID(int=7), datetime.now(UTC))]
    async with running(processes.registry):
        assert await (await processes.same.enqueue(parcels=parcels)).result(timeout=60) == {"🚀": parcels}


async def test_the_correlation_id_is_carried() -> None:
    async with running(processes.registry):
        before = correlation_id.set("request-7")
        job = await processes.whence.enqueue()
        correlation_id.reset(before)
        assert await job.result(timeout=60) == "request-7"


@pytest.mark.parametrize(
    ("how", "error_type", "attempts", "text"),
    [
        ("retry", "Retry", 2, "busy"),
        ("anything", "LookupError", 2, "in refuse\n"),
        ("odd", "RuntimeError", 2, "OddError: 1 and 2"),
        ("exit", "RuntimeError", 2, "SystemExit: gone"),
        ("crash", "ChildProcessError", 2, "was killed by SIGSEGV"),
        ("object", None, 1, "its result cannot be stored"),
    ],
)
async def test_what_it_raises_is_its_outcome(how: str, error_type: str | None, attempts: int, text: str) -> None:
    async with running(processes.registry):
        job = await processes.refuse.enqueue(how=how)
        outcome = await job.outcome(timeout=60)
        assert (outcome.status, outcome.error_type, outcome.attempts) == ("failed", error_type, attempts)
        assert outcome.error is not None
        assert text in outcome.error


async def test_it_can_discard_its_job() -> None:
    async with running(processes.registry):
        with pytest.raises(JobDiscardedError, match="pointless"):
            await (await processes.refuse.enqueue(how="discard")).result(timeout=60)


async def test_a_timeout_ends_what_holds_the_lock_of_its_interpreter() -> None:
    async with running(processes.registry):
        with pytest.raises(JobFailedError, match=r"exceeded its timeout of 0\.5 s") as caught:
            await (await processes.hold_the_lock.enqueue()).result(timeout=60)
        assert caught.value.error_type == "TimeoutError"
        # Its process was killed, and another one takes the next job.
        assert await (await processes.process_id.enqueue()).result(timeout=60)


async def test_the_loop_goes_on_while_a_process_computes() -> None:
    async with running(processes.registry):
        await (await processes.process_id.enqueue()).result(timeout=60)
        job = await processes.hold_the_lock.using(timeout=2).enqueue()
        turns = 0
        while await job.status() != "failed":
            turns += 1
            await asyncio.sleep(0.01)
        assert turns > 20


@pytest.mark.parametrize("timeout", [None, 300])
async def test_an_abort_ends_it_at_once(tmp_path: Path, timeout: float | None) -> None:
    async with running(processes.registry):
        job = await processes.linger.using(timeout=timeout).enqueue(note=str(tmp_path / "note"))
        pid = await lingering(tmp_path / "note")
        assert await job.abort("enough")
        with pytest.raises(JobAbortedError, match="enough"):
            await job.result(timeout=60)
        assert not alive(pid)


async def test_a_worker_that_stops_ends_it_and_hands_its_job_back(tmp_path: Path) -> None:
    async with running(processes.registry) as plugin:
        job = await processes.linger.enqueue(note=str(tmp_path / "note"))
        pid = await lingering(tmp_path / "note")
        queue = plugin.get_queue("default")
    assert not alive(pid)
    assert await queue.status(job.id.rpartition(":")[2]) == "queued"


async def test_signals_that_are_meant_for_the_worker_do_not_end_it() -> None:
    async with running(processes.registry):
        assert await (await processes.survive_signals.enqueue(note="on")).result(timeout=60) == "on"


async def test_there_are_no_more_processes_than_the_configuration_says(tmp_path: Path) -> None:
    async with running(processes.registry, processes=1):
        first = await processes.linger.enqueue(note=str(tmp_path / "first"), seconds=0.5)
        await lingering(tmp_path / "first")
        second = await processes.linger.enqueue(note=str(tmp_path / "second"), seconds=0)
        await second.result(timeout=60)
        assert await first.status() == "complete"
        assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_worker_that_is_killed_takes_its_processes_with_it(tmp_path: Path, loop: str) -> None:
    (tmp_path / "shop.py").write_text(
        """
import asyncio, importlib, sys
from litestar import Litestar
from litestar_tasks import TasksConfig, TasksPlugin
from tests.processes import linger, registry

async def main():
    config = TasksConfig(registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True)
    async with Litestar(plugins=[TasksPlugin(config)]).lifespan():
        await (await linger.enqueue(note=sys.argv[1])).result()

with asyncio.Runner(loop_factory=importlib.import_module(sys.argv[2]).new_event_loop) as runner:
    runner.run(main())
"""
    )
    command = [sys.executable, "shop.py", str(tmp_path / "note"), loop]
    worker = subprocess.Popen(  # noqa: ASYNC220  # it is started at once
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ABSENT['PYTHONPATH']}:{Path.cwd()}"}
    )
    try:
        pid = await lingering(tmp_path / "note")
        assert alive(pid)
    finally:
        worker.kill()
        worker.wait()
    await eventually(lambda: not alive(pid))


class TestRefused:
    @pytest.fixture
    def registry(self) -> Registry:
        return Registry("test", allow_local=True)

    def test_async_functions(self, registry: Registry) -> None:
        with pytest.raises(InvalidTaskError, match="is for sync functions, and this one is async"):

            @registry.task(executor="process")
            async def wrong() -> None: ...

    def test_a_registrys_executor_is_not_meant_for_async_functions(self) -> None:
        registry = Registry("test", allow_local=True, executor="process")

        @registry.task
        async def right() -> None: ...

        assert right.executor is None

    def test_what_another_process_cannot_import(self, registry: Registry) -> None:
        with pytest.raises(InvalidTaskError, match="another process can import"):

            @registry.task(executor="process")
            def wrong() -> None: ...

    @pytest.mark.parametrize("annotation", [Context, CurrentJob, object])
    def test_what_only_the_worker_has(self, registry: Registry, annotation: type) -> None:
        def wrong(one):  # type: ignore[no-untyped-def]  # annotated below
            ...

        wrong.__annotations__ = {"one": annotation, "return": None}
        if annotation is object:
            wrong.__defaults__ = (INJECTED,)
        wrong.__qualname__ = "wrong"
        with pytest.raises(InvalidTaskError, match="'one' is supplied by the worker"):
            registry.task(executor="process")(wrong)

    def test_another_executor(self, registry: Registry) -> None:
        with pytest.raises(ConfigurationError, match="give 'thread' or 'process'"):

            @registry.task(executor="fork")  # type: ignore[arg-type]  # which is what is tested
            def wrong() -> None: ...

    def test_no_processes_at_all(self) -> None:
        with pytest.raises(ConfigurationError, match="processes is 0; give at least 1"):
            QueueConfig(processes=0)
