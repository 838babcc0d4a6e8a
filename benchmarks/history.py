"""``python -m benchmarks history``: draining with every job recorded in a database, beside draining without."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import marks, report, server
from benchmarks.contestants import OURS, load, with_history
from benchmarks.processes import Agent, ContestantError, cpu_of
from tests.servers import PostgresServer

PAIRS = 3
LOADS = {"a burst": 20_000, "sustained": 150_000}
"""A burst is less than what a process remembers; of what is sustained, most has to be written meanwhile."""
CONCURRENCY = 32
TIMEOUT = 240.0
WITH = "with_history"


@dataclass(frozen=True)
class Drain:
    """How one drain went. CPU times are microseconds for each job, until the last one was recorded."""

    rate: float
    worker: float
    database: float
    late: float
    """Seconds from the end of the last job until the last one was recorded."""


def main() -> None:
    """Drain in pairs, for each database and load, and print the rates, their ratio, and what it cost."""
    print("No-op jobs, one worker process; a job counts when it is settled, in the broker.\n")
    postgres = PostgresServer()
    ratios: dict[str, float] = {}
    try:
        with server.run() as own, tempfile.TemporaryDirectory() as folder:
            print(report.machine(own.version))
            print("\nCPU in µs for each job.\n")
            print("| history in | load | without, jobs/s | with | ratio | worker's CPU | with | database's | late, s |")
            print("|---|---|---|---|---|---|---|---|---|")
            places: dict[str, Callable[[str], str]] = {
                "Postgres, asyncpg": lambda _: postgres.create_database().replace("://", "+asyncpg://"),
                "SQLite, aiosqlite": lambda name: f"sqlite+aiosqlite:///{Path(folder, name)}",
            }
            for place, make in places.items():
                pid = postgres.pid if place.startswith("Postgres") else None
                for what, jobs in LOADS.items():
                    found: dict[str, list[Drain]] = {OURS: [], WITH: []}
                    for turn in range(PAIRS):
                        os.environ[with_history.DATABASE] = make(f"{jobs}-{turn}")
                        for name in (OURS, WITH) if turn % 2 else (WITH, OURS):
                            found[name].append(_drain(own.database(0), name, jobs, pid))
                    pairs = zip(found[OURS], found[WITH], strict=True)
                    ratio = ratios[f"{place}, {what}"] = statistics.median(b.rate / a.rate for a, b in pairs)
                    print(f"| {place} | {what}, {jobs:,} | {_row(found, ratio)} |", flush=True)
    finally:
        postgres.close()
    print(json.dumps({place: round(ratio, 3) for place, ratio in ratios.items()}))


def _row(found: dict[str, list[Drain]], ratio: float) -> str:
    def median(name: str, what: str) -> float:
        numbers: list[float] = [getattr(drain, what) for drain in found[name]]
        return statistics.median(numbers)

    numbers = (
        f"{median(OURS, 'rate'):,.0f}",
        f"{median(WITH, 'rate'):,.0f}",
        f"{ratio:.2f}",
        f"{median(OURS, 'worker'):.0f}",
        f"{median(WITH, 'worker'):.0f}",
        f"{median(WITH, 'database'):.0f}",
        f"{median(WITH, 'late'):.1f}",
    )
    return " | ".join(numbers)


def _drain(database: Any, name: str, jobs: int, postgres: int | None) -> Drain:
    database.clear()
    producer = Agent("produce", name, database.url)
    worker = Agent("work", name, database.url, concurrency=CONCURRENCY)
    try:
        producer.hear()
        worker.hear()
        producer.ask(do="bulk", body="noop", count=jobs, arguments={"i": -1})
        marks.reset()
        worker.ask(go=True)
        used, of_database = worker.cpu(), cpu_of(postgres) if postgres else 0.0
        deadline = time.monotonic() + TIMEOUT
        while marks.count() < jobs or load(OURS).unfinished(database.client):
            if time.monotonic() > deadline:
                raise ContestantError(f"only {marks.count()} of {jobs} jobs had started after {TIMEOUT:g} s")
            time.sleep(0.005)
        ended = time.monotonic_ns()
        if name == WITH:
            asyncio.run(_recorded(jobs, deadline))
        return Drain(
            rate=jobs / ((ended - marks.first()) / 1e9),
            worker=(worker.cpu() - used) / jobs * 1e6,
            database=(cpu_of(postgres) - of_database) / jobs * 1e6 if postgres else float("nan"),
            late=(time.monotonic_ns() - ended) / 1e9,
        )
    finally:
        producer.stop()
        worker.stop()


async def _recorded(jobs: int, deadline: float) -> None:
    """Wait until every job is in the database: a rate counts only if nothing was left out for it."""
    engine = create_async_engine(os.environ[with_history.DATABASE])
    try:
        while True:
            async with engine.connect() as connection:
                found = await connection.scalar(text("SELECT count(*) FROM litestar_tasks_history"))
                gaps = await connection.scalar(text("SELECT count(*) FROM litestar_tasks_history_gaps"))
            if found == jobs:
                return
            if gaps or time.monotonic() > deadline:
                raise ContestantError(f"only {found} of {jobs} jobs were recorded, and {gaps} gaps")
            await asyncio.sleep(0.2)
    finally:
        await engine.dispose()
