"""``python -m benchmarks dashboard``: how long the server takes for each page, in a long queue of a busy day."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from litestar import Litestar

from benchmarks import filling, report, server
from benchmarks.filling import TASKS
from litestar_tasks import DashboardConfig, Registry, TasksConfig, TasksPlugin
from litestar_tasks.dashboard import history, watch
from litestar_tasks.queues.operations import BOUNDS, STATES, Minute, TaskMinute
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.queues.schedule_book import QueueSchedules
from tests.servers import PostgresServer

STARTS = 5
"""How often a page is the first one that a process is asked for."""
TIMES = 20
"""How often it is asked for again."""
DAY = 24 * 60
PAGES = {
    "overview": "",
    "overview, last day": "?range=day",
    "jobs": "/jobs",
    "jobs that failed": "/jobs?state=failed",
    "jobs of a task": "/jobs?state=complete&task=task_007",
    "jobs with a text": "/jobs?state=complete&q=nowhere",
    "a job": "/queues/default/jobs/{key}",
    "queues": "/queues",
    "a queue": "/queues/default",
    "a queue, last day": "/queues/default?range=day",
    "tasks": "/tasks",
    "a task": "/tasks/task_007",
    "a task, last day": "/tasks/task_007?range=day",
    "schedules": "/schedules",
    "a schedule": "/schedules/task_007",
    "workers": "/workers",
}


def main() -> None:
    """Fill a server, ask for every page, and print the medians and the worst: for Redis, then for Postgres."""
    print(
        f"Milliseconds, median and worst, with {filling.JOBS:,} jobs in each status and {len(TASKS)} tasks with a\n"
        f"schedule each, which ran in every minute of the day: the first page of a new process, {STARTS} times; those\n"
        f"that follow until the day has been read; then each page {TIMES} times, asked of the broker anew."
    )
    with server.run() as own:
        database = own.database(0)
        filling.on_redis(database, STATES)
        _measure(database.url, f"{0:032x}", own.version)
    postgres = PostgresServer("-c", "shared_buffers=128MB")
    try:
        migrate(postgres.url(), lambda _: None)
        filling.on_postgres(postgres, STATES)
        ((version,),) = postgres.execute("SHOW server_version")
        _measure(postgres.url(), "queued-1", f"Postgres {version}")
    finally:
        postgres.close()


def _measure(url: str, key: str, version: str) -> None:
    asyncio.run(_busy_day(url))
    print(f"\n{report.machine(version)}\n")
    lines = []
    # Each in a process of its own: what one has loaded, compiled or remembered helps no other.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        again = pool.apply(_again, (url, key))
        for name, path in PAGES.items():
            starts = [pool.apply(_first, (url, path.format(key=key))) for _ in range(STARTS)]
            cells = [[first for first, _ in starts], [late for _, rest in starts for late in rest], again[name]]
            lines.append([name, *(f"{statistics.median(one):.0f} / {max(one):.0f}" if one else "–" for one in cells)])
    print(report.table(["page", "the first one", "while the day is read", "again"], lines))


def _first(url: str, path: str) -> tuple[float, list[float]]:
    """How long a process takes for its first page, and for those that follow until it knows the day."""

    async def run() -> tuple[float, list[float]]:
        app = _app(url)
        async with app.lifespan():
            took, text = await _get(app, path)
            rest: list[float] = []
            while "reading…" in text:
                await asyncio.sleep(0.02)
                more, text = await _get(app, path)
                rest.append(more)
            return took, rest

    return asyncio.run(run())


def _again(url: str, key: str) -> dict[str, list[float]]:
    """How long a process takes for pages that it has shown before."""

    async def run() -> dict[str, list[float]]:
        app = _app(url)
        async with app.lifespan():
            for path in PAGES.values():
                while "reading…" in (await _get(app, path.format(key=key)))[1]:
                    await asyncio.sleep(0.05)
            # Whoever looks again does so later than the second for which others are told the same.
            with patch.object(watch, "_FRESH", -1.0), patch.object(history, "_FRESH", -1.0):
                return {
                    name: [(await _get(app, path.format(key=key)))[0] for _ in range(TIMES)]
                    for name, path in PAGES.items()
                }

    return asyncio.run(run())


_tasks: set[asyncio.Task[None]] = set()


async def _get(app: Litestar, path: str) -> tuple[float, str]:
    """Milliseconds until the last byte of a page was sent, and its text. What the app does afterwards goes on."""
    path, _, query = f"/saq{path}".partition("?")
    body, sent = bytearray(), asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            sent.set_exception(RuntimeError(f"{path} was answered with {message['status']}"))
        body.extend(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body") and not sent.done():
            sent.set_result(time.perf_counter())

    scope: Any = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", b"text/html")], "client": ("127.0.0.1", 4711),
        "server": ("localhost", 80),
    }  # fmt: skip
    began = time.perf_counter()
    task = asyncio.create_task(app(scope, receive, send))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return 1000 * (await sent - began), body.decode()


async def _busy_day(url: str) -> None:
    """Let every task have run several times in each minute, and store its schedule."""
    app = _app(url)
    plugin = app.plugins.get(TasksPlugin)
    async with app.lifespan():
        registry, queue = plugin.config.registry, plugin.get_queue("default")
        await QueueSchedules(registry, {queue.label: queue}).reconcile(queue)
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        for back in range(DAY):
            start = now - timedelta(minutes=back)
            await queue.add_minutes([Minute(start, {task: _minute(at + back) for at, task in enumerate(TASKS)})])


def _minute(seed: int) -> TaskMinute:
    """Ten attempts, in three buckets for how long they waited and three for how long they ran."""
    found = TaskMinute(complete=9, retried=1)
    for index, number in enumerate((3, 5, 2)):
        found.waited[(seed + index) % len(BOUNDS)] = number
        found.ran[(seed + 2 * index) % len(BOUNDS)] = number
    return found


def _app(url: str) -> Litestar:
    registry = Registry("benchmark", allow_local=True)
    for number, name in enumerate(TASKS):

        async def body(*, user_id: int, dry_run: bool = False) -> None:
            """Look after a user."""

        registry.schedule(
            registry.task(name=name)(body), cron=f"{number % 60} {number % 24} * * *", kwargs={"user_id": 1}
        )

    async def anybody(*_: Any) -> None: ...

    config = TasksConfig(registry=registry, broker_url=url, dashboard=DashboardConfig(guards=[anybody]))
    return Litestar(plugins=[TasksPlugin(config)], logging_config=None)
