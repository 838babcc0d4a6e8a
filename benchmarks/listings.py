"""``python -m benchmarks listings``: what an operator's questions cost with 100,000 jobs in a status."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from benchmarks import report, server
from litestar_tasks.queues.operations import ENDED, STATES, JobFilter, JobState
from litestar_tasks.queues.redis import RedisQueue

JOBS = 100_000
PAGE = 50
TIMES = 30
DEPTH = 100
"""Pages of 500 jobs to the middle of a listing."""
ROWS = ("counts", "first page", "page in the middle", "search of 500 records", "step of a bulk operation")


def main() -> None:
    """Fill a server with the jobs of one status after the other, ask, and print the medians and the worst."""
    print(f"Milliseconds, median and worst of {TIMES}, with {JOBS:,} jobs in the status. A page has {PAGE} jobs.\n")
    with server.run() as own:
        print(report.machine(own.version))
        print(f"\n| | {' | '.join(STATES)} |\n|---|{'---|' * len(STATES)}")
        database = own.database(0)
        columns: list[list[str]] = []
        for state in STATES:
            database.clear()
            for commands in _batches(_filling(state)):
                pipe = database.client.pipeline(transaction=False)
                for command in commands:
                    pipe.execute_command(*command)
                pipe.execute()
            columns.append(asyncio.run(_ask(database.url, state)))
        database.clear()
        for row, cells in zip(ROWS, zip(*columns, strict=True), strict=True):
            print(f"| {row} | {' | '.join(cells)} |")


async def _ask(url: str, state: JobState) -> list[str]:
    queue = RedisQueue.from_url(url)
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


def _filling(state: JobState) -> Iterator[tuple[Any, ...]]:
    """The commands that put jobs where they would stand."""
    prefix, status = "saq:default:", {"quarantined": "failed", "scheduled": "queued", "retrying": "queued"}
    due = time.time() + 100_000
    for number in range(JOBS):
        key = f"{number:032x}"
        job_id = f"saq:job:default:{key}"
        record = {
            "function": "noop",
            "kwargs": {"user_id": number},
            "queue": "default",
            "key": key,
            "status": status.get(state, state),
            "queued": 1_700_000_000_000 + number,
        }
        yield "SET", job_id, json.dumps(record)
        match state:
            case "queued":
                yield "ZADD", prefix + "incomplete", 0, job_id
                yield "RPUSH", prefix + "queued", job_id
            case "active":
                yield "ZADD", prefix + "incomplete", -(2**27 + number), job_id
            case "scheduled" | "retrying":
                yield "ZADD", prefix + "incomplete", due + number, job_id
                if state == "retrying":
                    yield "ZADD", prefix + "retrying", due + number, job_id
            case _:
                yield "ZADD", prefix + state, number + 1, job_id


def _batches(commands: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    for command in commands:
        batch.append(command)
        if len(batch) == 5_000:
            yield batch
            batch = []
    yield batch
