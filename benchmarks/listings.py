"""``python -m benchmarks listings``: what an operator's questions cost with 100,000 jobs in a status."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from benchmarks import report, server
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.operations import ENDED, STATES, JobFilter, JobState
from litestar_tasks.queues.postgres import PostgresQueue
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.queues.redis import RedisQueue
from tests.servers import PostgresServer

JOBS = 100_000
PAGE = 50
TIMES = 30
DEPTH = 100
"""Pages of 500 jobs to the middle of a listing."""
ROWS = ("counts", "first page", "page in the middle", "search of 500 records", "step of a bulk operation")


_FILL = """
INSERT INTO litestar_tasks_jobs
    (queue, key, job, status, task, scheduled, attempts, owner, token, started, ended, expire_at, quarantined)
SELECT 'default', '{state}-' || n, convert_to(json_build_object(
        'function', 'noop', 'kwargs', json_build_object('user_id', n), 'queue', 'default', 'key', '{state}-' || n,
        'status', '{status}', 'queued', 1700000000000 + n)::text, 'UTF8'),
    '{status}', 'noop', {scheduled}, {attempts}, {owner}, {token}, {started}, {ended}, {expires}, {quarantined}
FROM generate_series(1, {jobs}) AS n
"""
_WAITING = {
    **dict.fromkeys(("scheduled", "owner", "token", "started", "ended", "expires"), "NULL"),
    "status": "queued",
    "attempts": "0",
    "quarantined": "false",
}
_LATER = {"scheduled": "now() + interval '1 day' + n * interval '1 s'"}
_OVER = {"attempts": "1", "ended": "now() - n * interval '1 s'", "expires": "now() + interval '1 day'"}
_ROWS: dict[JobState, dict[str, str]] = {
    "queued": {},
    "scheduled": _LATER,
    "retrying": {**_LATER, "attempts": "1"},
    "active": {"status": "active", "owner": "1", "token": "n", "started": "now()"},
    "complete": {**_OVER, "status": "complete"},
    "failed": {**_OVER, "status": "failed"},
    "aborted": {**_OVER, "status": "aborted"},
    "quarantined": {**_OVER, "status": "failed", "quarantined": "true"},
}
"""How the columns of a state's rows differ from those of a queued job."""


def main() -> None:
    """Fill a server with jobs, ask, and print the medians and the worst: for Redis, then for Postgres."""
    print(f"Milliseconds, median and worst of {TIMES}, with {JOBS:,} jobs in the status. A page has {PAGE} jobs.\n")
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
            for commands in _batches(_filling(state)):
                pipe = database.client.pipeline(transaction=False)
                for command in commands:
                    pipe.execute_command(*command)
                pipe.execute()
            columns.append(asyncio.run(_ask(RedisQueue.from_url(database.url), state)))
        database.clear()
        _print(columns)


def _on_postgres() -> None:
    """Of all statuses at once, in one table."""
    own = PostgresServer("-c", "shared_buffers=128MB")
    try:
        migrate(own.url(), lambda _: None)
        for state in STATES:
            own.execute(_FILL.format(state=state, jobs=JOBS, **{**_WAITING, **_ROWS[state]}))
        own.execute("VACUUM ANALYZE litestar_tasks_jobs")  # as autovacuum has done where a queue grew slowly
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
