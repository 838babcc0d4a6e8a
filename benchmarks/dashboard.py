"""``python -m benchmarks dashboard``: how long the server takes for each page, in a long queue of a busy day."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unittest.mock import patch

from litestar import Litestar

from benchmarks import filling, report, server
from benchmarks.filling import TASKS
from litestar_tasks import DashboardConfig, Registry, TasksConfig, TasksPlugin
from litestar_tasks.dashboard import answers, history, watch
from litestar_tasks.queues.operations import BOUNDS, STATES, Minute, TaskMinute
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.queues.schedule_book import QueueSchedules
from tests.servers import PostgresServer

STARTS = 3
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


class Took(NamedTuple):
    """What a page took, in milliseconds."""

    wall: float
    cpu: float
    """Of the web process alone."""
    reading: bool
    """Whether it says that there is more to be read."""


def main() -> None:
    """Fill a server, ask for every page, and print the medians and the worst: for Redis, then for Postgres."""
    print(
        f"Milliseconds of server time, median and worst, with {filling.JOBS:,} jobs in each status and {len(TASKS)}\n"
        f"tasks with a schedule each, all of which ran in every minute of the day. First: the first page of a new\n"
        f"process, {STARTS} times. Meanwhile: the same page while the day is still being read. Again: {TIMES} times,\n"
        "asked of the broker anew. CPU: that of the web process, median."
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
    print(f"\n{report.machine(version)}\n\n| page | first | CPU | meanwhile | again | CPU |\n|---|---|---|---|---|---|")
    # Each in a process of its own: what one has loaded, compiled or remembered helps no other.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        again = pool.apply(_again, (url, key))
        for name, path in PAGES.items():
            starts = [pool.apply(_first, (url, path.format(key=key))) for _ in range(STARTS)]
            first, rest = [one[0] for one in starts], [more for one in starts for more in one[1:]]
            cells = (*_cells(first), _cells(rest)[0] if rest else "–", *_cells(again[name]))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cells(times: Sequence[Took]) -> tuple[str, str]:
    walls = [one.wall for one in times]
    return f"{statistics.median(walls):.0f} / {max(walls):.0f}", f"{statistics.median(one.cpu for one in times):.0f}"


def _first(url: str, path: str) -> list[Took]:
    """How long a process takes for its first page, and for those that follow until it knows the day."""

    async def run() -> list[Took]:
        app = _app(url)
        async with app.lifespan():
            await asyncio.to_thread(answers.prepare().join)  # which takes a moment after a start
            gc.collect()  # the interpreter does so now and then, and not for the sake of a page
            found = [await _get(app, path)]
            while found[-1].reading and len(found) < TIMES:
                await asyncio.sleep(0.05)
                found.append(await _get(app, path))
            return found

    return asyncio.run(run())


def _again(url: str, key: str) -> dict[str, list[Took]]:
    """How long a process takes for pages that it has shown before."""

    async def run() -> dict[str, list[Took]]:
        app = _app(url)
        paths = {name: path.format(key=key) for name, path in PAGES.items()}
        async with app.lifespan():
            for path in paths.values():
                while (await _get(app, path)).reading:  # noqa: ASYNC110  # only asking again tells
                    await asyncio.sleep(0.05)
            # Whoever looks again does so later than the second for which others are told the same.
            with patch.object(watch, "_FRESH", -1.0), patch.object(history, "_FRESH", -1.0):
                return {name: [await _get(app, path) for _ in range(TIMES)] for name, path in paths.items()}

    return asyncio.run(run())


_tasks: set[asyncio.Task[None]] = set()


async def _get(app: Litestar, path: str) -> Took:
    """Ask for a page, until its last byte was sent. What the app does afterwards goes on."""
    path, _, query = f"/saq{path}".partition("?")
    body, sent = bytearray(), asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            sent.set_exception(RuntimeError(f"{path} was answered with {message['status']}"))
        body.extend(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body") and not sent.done():
            sent.set_result((time.perf_counter(), time.process_time()))

    scope: Any = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", b"text/html")], "client": ("127.0.0.1", 4711),
        "server": ("localhost", 80),
    }  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    task = asyncio.create_task(app(scope, receive, send))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    ended = await sent
    return Took(1000 * (ended[0] - wall), 1000 * (ended[1] - cpu), "reading…" in body.decode())


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
