"""Puts jobs where they would stand if they had been enqueued, claimed and ended: so many would take too long to run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.server import Database
from litestar_tasks.queues.operations import STATES, JobState
from tests.servers import PostgresServer

JOBS = 100_000
"""In each status."""
TASKS = [f"task_{number:03}" for number in range(200)]
"""What they are jobs of, in turn."""

_FILL = """
INSERT INTO litestar_tasks_jobs
    (queue, key, job, status, task, scheduled, attempts, owner, token, started, ended, expire_at, quarantined)
SELECT 'default', '{state}-' || n, convert_to(json_build_object(
        'function', 'task_' || lpad((n % {tasks})::text, 3, '0'), 'kwargs', json_build_object('user_id', n),
        'queue', 'default', 'key', '{state}-' || n, 'status', '{status}', 'queued', 1700000000000 + n)::text, 'UTF8'),
    '{status}', 'task_' || lpad((n % {tasks})::text, 3, '0'), {scheduled}, {attempts}, {owner}, {token}, {started},
    {ended}, {expires}, {quarantined}
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


def on_redis(database: Database, states: Iterable[JobState]) -> None:
    """Fill the queue "default" of a database."""
    for state in states:
        for commands in _batches(_commands(state)):
            pipe = database.client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            pipe.execute()


def on_postgres(server: PostgresServer, states: Iterable[JobState]) -> None:
    """Fill the queue "default" of a server whose tables are there."""
    for state in states:
        columns = {**_WAITING, **_ROWS[state]}
        server.execute(_FILL.format(state=state, jobs=JOBS, tasks=len(TASKS), **columns))
    server.execute("VACUUM ANALYZE litestar_tasks_jobs")  # as autovacuum has done where a queue grew slowly


def _commands(state: JobState) -> Iterator[tuple[Any, ...]]:
    prefix, status = "saq:default:", {"quarantined": "failed", "scheduled": "queued", "retrying": "queued"}
    due = time.time() + 100_000
    for number in range(JOBS):
        key = f"{STATES.index(state)}{number:031x}"
        job_id = f"saq:job:default:{key}"
        record = {
            "function": TASKS[number % len(TASKS)],
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
