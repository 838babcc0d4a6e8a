"""``python -m benchmarks listings``: what an operator's questions cost with 100,000 jobs in a status."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import filling, report, server
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.operations import ENDED, STATES, JobFilter, JobState
from litestar_tasks.queues.postgres import PostgresQueue
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.queues.redis import RedisQueue
from tests.servers import PostgresServer

PAGE = 50
TIMES = 30
DEPTH = 100
"""Pages of 500 jobs to the middle of a listing."""
ROWS = ("counts", "first page", "page in the middle", "search of 500 records", "step of a bulk operation")


def main() -> None:
    """Fill a server with jobs, ask, and print the medians and the worst: for Redis, then for Postgres."""
    print(
        f"Milliseconds, median and worst of {TIMES}, with {filling.JOBS:,} jobs in the status. "
        f"A page has {PAGE} jobs.\n"
    )
    _on_redis()
    _on_postgres()


def _on_redis() -> None:
    """Of one status after the other."""
    with server.run() as own:
        print(report.machine(own.version))
        database = own.database(0)
        columns: list[list[str]] = []
        for state in STATES:
            database.clear()
            filling.on_redis(database, [state])
            columns.append(asyncio.run(_ask(RedisQueue.from_url(database.url), state)))
        database.clear()
        _print(columns)


def _on_postgres() -> None:
    """Of all statuses at once, in one table."""
    own = PostgresServer("-c", "shared_buffers=128MB")
    try:
        migrate(own.url(), lambda _: None)
        filling.on_postgres(own, STATES)
        ((version,),) = own.execute("SHOW server_version")
        print(f"\n{report.machine(f'Postgres {version}')}")
        _print([asyncio.run(_ask(PostgresQueue.from_url(own.url()), state)) for state in STATES])
    finally:
        own.close()


def _print(columns: list[list[str]]) -> None:
    print(f"\n| | {' | '.join(STATES)} |\n|---|{'---|' * len(STATES)}")
    for row, cells in zip(ROWS, zip(*columns, strict=True), strict=True):
        print(f"| {row} | {' | '.join(cells)} |")


async def _ask(queue: TaskQueue, state: JobState) -> list[str]:
    which = JobFilter(state=state)
    middle = None
    for _ in range(DEPTH):
        middle = (await queue.page(which, limit=500, cursor=middle)).cursor
    action: Any = "delete" if state in ENDED else "abort"
    questions: list[Callable[[], Awaitable[object]]] = [
        queue.counts,
        lambda: queue.page(which, limit=PAGE),
        lambda: queue.page(which, limit=PAGE, cursor=middle),
        lambda: queue.page(JobFilter(state=state, task="none")),
        lambda: queue.bulk(action, which, limit=PAGE),
    ]
    cells = [await _time(question) for question in questions]
    await queue.disconnect()
    return cells


async def _time(question: Callable[[], Awaitable[object]]) -> str:
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await question()
        times.append(1000 * (time.perf_counter() - began))
    return f"{statistics.median(times):.1f} / {max(times):.1f}"
