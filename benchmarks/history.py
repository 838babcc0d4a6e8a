"""``python -m benchmarks history``: draining with every job recorded in a database, beside draining without."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import marks, report, server
from benchmarks.contestants import OURS, load, with_history
from benchmarks.processes import Agent, ContestantError
from tests.servers import PostgresServer

PAIRS = 3
JOBS = 20_000
CONCURRENCY = 32
TIMEOUT = 240.0
WITH = "with_history"


def main() -> None:
    """Drain in pairs, once for each database, and print the rates and their ratio."""
    print(f"{JOBS:,} no-op jobs, one worker process; a job counts when it is settled, in the broker.\n")
    postgres = PostgresServer()
    ratios: dict[str, float] = {}
    try:
        with server.run() as own, tempfile.TemporaryDirectory() as folder:
            print(report.machine(own.version))
            print("\n| history in | without, jobs/s | with, jobs/s | ratio |\n|---|---|---|---|")
            places: dict[str, Callable[[int], str]] = {
                "Postgres, asyncpg": lambda _: postgres.create_database().replace("://", "+asyncpg://"),
                "SQLite, aiosqlite": lambda turn: f"sqlite+aiosqlite:///{Path(folder, f'{turn}.sqlite3')}",
            }
            for place, make in places.items():
                rates: dict[str, list[float]] = {OURS: [], WITH: []}
                for turn in range(PAIRS):
                    os.environ[with_history.DATABASE] = make(turn)
                    for name in (OURS, WITH) if turn % 2 else (WITH, OURS):
                        rates[name].append(_drain(own.database(0), name))
                ratios[place] = statistics.median(b / a for a, b in zip(rates[OURS], rates[WITH], strict=True))
                without, beside = (statistics.median(rates[name]) for name in (OURS, WITH))
                print(f"| {place} | {without:,.0f} | {beside:,.0f} | {ratios[place]:.2f} |")
    finally:
        postgres.close()
    print(json.dumps({place: round(ratio, 3) for place, ratio in ratios.items()}))


def _drain(database: Any, name: str) -> float:
    database.clear()
    producer = Agent("produce", name, database.url)
    worker = Agent("work", name, database.url, concurrency=CONCURRENCY)
    try:
        producer.hear()
        worker.hear()
        producer.ask(do="bulk", body="noop", count=JOBS, arguments={"i": -1})
        marks.reset()
        worker.ask(go=True)
        deadline = time.monotonic() + TIMEOUT
        while marks.count() < JOBS or load(OURS).unfinished(database.client):
            if time.monotonic() > deadline:
                raise ContestantError(f"only {marks.count()} of {JOBS} jobs had started after {TIMEOUT:g} s")
            time.sleep(0.005)
        rate = JOBS / ((time.monotonic_ns() - marks.first()) / 1e9)
        if name == WITH:
            asyncio.run(_recorded(deadline))
        return rate
    finally:
        producer.stop()
        worker.stop()


async def _recorded(deadline: float) -> None:
    """Wait until every job is in the database: a rate counts only if nothing was left out for it."""
    engine = create_async_engine(os.environ[with_history.DATABASE])
    try:
        while True:
            async with engine.connect() as connection:
                jobs = await connection.scalar(text("SELECT count(*) FROM litestar_tasks_history"))
            if jobs == JOBS:
                return
            if time.monotonic() > deadline:
                raise ContestantError(f"only {jobs} of {JOBS} jobs were recorded after {TIMEOUT:g} s")
            await asyncio.sleep(0.05)
    finally:
        await engine.dispose()
