"""When what happens to jobs is written into the history, and when it waits for the jobs' sake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from saq.job import Job, Status
from saq.utils import now

from litestar_tasks.outbox.history import recorder
from litestar_tasks.outbox.history.recorder import Recorder
from litestar_tasks.outbox.outage import Outage

FOR_EVER = 3_600.0


class Rows:
    """What would write; it takes a moment, as a database does."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.gaps: list[Any] = []

    async def write(self, entries: Sequence[dict[str, Any]], gap: Any = None) -> None:
        await asyncio.sleep(0.02)
        self.written += [one["id"] for one in entries]
        if gap is not None:
            self.gaps.append(gap)


class Busy:
    """A process in which jobs end without a pause."""

    label = "default"

    def __init__(self, buffer: int) -> None:
        self.rows = Rows()
        outage = Outage("history", "")
        self.recorder = Recorder(
            cast("Any", self.rows), outage, buffer=buffer, keep=None, keep_jobs=None, tidying=False
        )
        self.ended = 0

    def job_id(self, key: str) -> str:
        return key

    def end(self, jobs: int) -> None:
        for _ in range(jobs):
            job = Job(function="task", key=str(self.ended), status=Status.COMPLETE, queued=now(), completed=now())
            self.ended += 1
            self.recorder.hear(cast("Any", self), job, "ended")

    async def until_written(self, jobs: int, *, ending: int = 0) -> None:
        deadline = time.monotonic() + 60
        while len(self.rows.written) < jobs:
            assert time.monotonic() < deadline, f"{len(self.rows.written)} of {jobs} are written"
            self.end(ending)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def busy(buffer: int = 50_000) -> AsyncIterator[Busy]:
    process = Busy(buffer)
    process.recorder.start()
    yield process
    await process.recorder.close()
    assert sorted(process.rows.written, key=int) == [str(number) for number in range(process.ended)]
    assert process.rows.gaps == []


@pytest.fixture(autouse=True)
def _pauses_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_SHARE", 1e-9)
    monkeypatch.setattr(recorder, "_HELD", FOR_EVER)


async def test_while_jobs_go_on_what_was_heard_waits_and_is_written_at_the_stop() -> None:
    async with busy() as process:
        process.end(600)
        await process.until_written(500, ending=1)
        for _ in range(100):
            process.end(10)
            await asyncio.sleep(0.001)
        held = process.ended - len(process.rows.written)
    assert held >= 1_000


async def test_what_waits_is_written_at_once_when_there_is_nothing_else_to_do() -> None:
    async with busy() as process:
        process.end(5_000)
        await process.until_written(500, ending=1)
        await process.until_written(process.ended)


async def test_nothing_waits_longer_than_some_seconds_though_jobs_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_HELD", 0.05)
    async with busy() as process:
        process.end(5_000)
        await process.until_written(5_000, ending=1)


async def test_waiting_makes_no_gap_since_a_buffer_that_fills_is_written() -> None:
    async with busy(buffer=4_000) as process:
        await process.until_written(10_000, ending=5)


async def test_all_that_was_heard_before_a_flush_is_written_by_it() -> None:
    async with busy() as process:
        process.end(1_700)
        await process.recorder.flush()
        assert len(process.rows.written) >= 1_700
