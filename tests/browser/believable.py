"""The reference app's queues on an ordinary day, for screenshots and for looking at every page."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin
from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from saq.job import Job, Status
from saq.types import WorkerInfo
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import database_config
from app.dependencies import dependencies
from app.payments.tasks import weekly_report
from app.queue.config import tasks_config
from app.settings import Settings
from litestar_tasks import Registry, TasksConfig, TasksPlugin
from litestar_tasks.outbox.history import history_tables
from litestar_tasks.outbox.history.entries import entry
from litestar_tasks.outbox.history.rows import HistoryRows
from litestar_tasks.queues.base import ClaimedJob, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.history import remember
from litestar_tasks.queues.operations import BOUNDS, ENDED, JobFilter, Minute, TaskMinute

__all__ = ("WORKER", "shop_day")

WORKER = "7c1e3f60-9a41-11f1-8d7e-02fc00000001"
DAY = 86_400
_BUSY = {
    "send_welcome_email": ("default", 6, 0.4, 0.01),
    "send_receipt": ("emails", 14, 0.25, 0.02),
    "send_campaign_mail": ("emails", 45, 0.12, 0.015),
    "update_user_status": ("default", 9, 0.02, 0.004),
    "checksum": ("default", 4, 0.01, 0.0),
}
"""Queue, attempts a minute, seconds that one takes, and the share of errors."""


def shop_day(**dashboard: Any) -> Litestar:
    """The reference app's tasks with a day behind them, in memory; nothing works on it, so pages stay as they are."""
    folder = Path(tempfile.mkdtemp(prefix="shop-"))
    settings = Settings(tasks_broker_url="memory://", database_url=f"sqlite+aiosqlite:///{folder}/shop.sqlite3")
    config, database = tasks_config(settings), database_config(settings)
    plugin = TasksPlugin(
        TasksConfig(
            registry=config.registry,
            broker_url="memory://",
            namespace="production",
            queue_configs=config.queue_configs,
            dashboard=type(config.dashboard)(**dashboard) if dashboard else config.dashboard,
            history=config.history,
        )
    )

    @asynccontextmanager
    async def live_a_day(app: Litestar) -> AsyncIterator[None]:
        queues = plugin.get_queue("default"), plugin.get_queue("emails")
        await fill(config.registry, *queues)
        await fill_history(database.get_engine(), history_tables(database.metadata), *queues)
        beating = asyncio.create_task(beat(*queues))
        yield
        beating.cancel()
        await database.get_engine().dispose()
        shutil.rmtree(folder)

    return Litestar(
        openapi_config=OpenAPIConfig(title="Shop", version="1.0.0"),
        dependencies=dependencies(settings),
        plugins=[SQLAlchemyPlugin(database), plugin],
        lifespan=[live_a_day],
        debug=not dashboard,
        logging_config=None,
    )


async def fill(registry: Registry, default: TaskQueue, emails: TaskQueue) -> None:
    """A day's counts, and jobs in every state."""
    await write_minutes(default, emails)
    for queue in (default, emails):
        await queue.open(WORKER, WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
    await fill_schedules(registry, default)
    await fill_ended(default, emails)
    await fill_failed(default, emails)
    await fill_running(default, emails)
    await fill_waiting(default, emails)


async def write_minutes(default: TaskQueue, emails: TaskQueue) -> None:
    chance = random.Random(7)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    minutes: dict[str, list[Minute]] = {"default": [], "emails": []}
    for back in range(1440):
        tasks: dict[str, dict[str, TaskMinute]] = {"default": {}, "emails": {}}
        busy = 0.45 + 0.55 * abs(((1440 - back) % 720) / 360 - 1) + chance.uniform(-0.12, 0.12)
        for task, (queue, often, seconds, errors) in _BUSY.items():
            counted = TaskMinute()
            trouble = errors * (12 if 18 <= back <= 24 and queue == "emails" else 1)
            for _ in range(round(often * busy * chance.uniform(0.6, 1.4))):
                failed = chance.random() < trouble
                counted.retried += failed and chance.random() < 0.7
                counted.failed += failed and chance.random() < 0.3
                counted.complete += not failed
                counted.ran[bucket(seconds * chance.lognormvariate(0, 0.7) * (6 if failed else 1))] += 1
                counted.waited[bucket(0.008 * chance.lognormvariate(0, 1.1) * (30 if 18 <= back <= 24 else 1))] += 1
            tasks[queue][task] = counted
        for queue, found in tasks.items():
            minutes[queue].append(Minute(now - timedelta(minutes=back), found))
    await default.add_minutes(minutes["default"])
    await emails.add_minutes(minutes["emails"])


async def fill_schedules(registry: Registry, default: TaskQueue) -> None:
    """One that has run, one that somebody changed, and one that was added and is paused."""
    await registry.run_schedule("cleanup_old_records", by="'ada' at 10.0.4.17")
    (job,) = await default.claim(1)
    job.status, job.attempts, job.started, job.completed = Status.COMPLETE, 1, millis(-41), millis()
    await default.settle(job, Settlement.COMPLETE)
    await registry.change_schedule("weekly_report", cron="0 7 * * 1", by="'ada' at 10.0.4.17")
    every = timedelta(minutes=5)
    await registry.add_schedule("ping-every-5-min", task="ping", every=every, by="'bob' at 10.0.4.21")
    await registry.pause_schedule("ping-every-5-min", by="'bob' at 10.0.4.21")


async def fill_ended(default: TaskQueue, emails: TaskQueue) -> None:
    for number in range(60):
        ago = 3 + number * 47
        await end(
            emails,
            "send_receipt",
            {"payment_id": 48_210 - number},
            ago,
            0.21 + number % 5 / 30,
            result={"payment_id": 48_210 - number, "sent_to": "ada@example.com", "amount": "49.00", "currency": "EUR"},
        )
        await end(default, "send_welcome_email", {"user_id": 9_120 - number}, ago + 20, 0.4, result={"status": "sent"})
    await end(default, "cleanup_old_records", {"batch_size": 100}, 33_000, 41.2, result={"deleted": 2_318})
    await end(
        default,
        "update_user_status",
        {"user_id": 7, "status": "blocked"},
        260,
        0.02,
        how=Settlement.ABORTED,
        error="aborted from the dashboard by 'ada' at 10.0.4.17",
    )


async def fill_failed(default: TaskQueue, emails: TaskQueue) -> None:
    error = await what_a_report_raised()
    await end(
        default, "weekly_report", {}, 32_400, 30.0, how=Settlement.FAILED, key="weekly-report-2026-W47", error=error
    )
    for number in range(7):
        text = (
            'Traceback (most recent call last):\n  File "/srv/shop/app/campaigns/tasks.py", line 56, in '
            "send_campaign_mail\n    await mailbox.send(\nConnectionRefusedError: [Errno 111] Connect call failed "
            "('10.0.4.2', 587)"
        )
        await end(
            emails,
            "send_campaign_mail",
            {"recipient_id": 88_120 + number},
            1_150 + number * 31,
            5.0,
            how=Settlement.FAILED,
            error=text,
            attempts=5,
            retries=5,
            tag="campaign-31",
        )
    await end(
        default,
        "import_customers",
        {"file": "customers.csv", "api_key": "sk_live_51Hx"},
        7_900,
        0.0,
        how=Settlement.QUARANTINED,
        error="no worker knows the task 'import_customers'; registered are 9 others",
    )


async def fill_running(default: TaskQueue, emails: TaskQueue) -> None:
    campaign = await claim(
        default, "send_campaign", {"campaign_id": 31, "batch_size": 100}, key="campaign-31", timeout=3600
    )
    campaign.started = millis(-372)
    lines = [
        "2,600 recipients have not got theirs yet",
        "batch 1 of 26: 100 sent",
        "batch 2 of 26: 98 sent, 2 failed",
        *(f"batch {number} of 26: 100 sent" for number in range(3, 17)),
    ]
    log = [{"at": millis(-372 + number * 22), "text": text} for number, text in enumerate(lines)]
    await default.update(
        campaign,
        progress=0.63,
        started=campaign.started,
        queued=millis(-373),
        meta={"message": "batch 17 of 26", "log": log, "tag": "campaign-31"},
    )
    for number in range(4):
        mail = await claim(emails, "send_campaign_mail", {"recipient_id": 88_540 + number}, tag="campaign-31")
        await emails.update(mail, started=millis(-0.4 * number - 0.2))


async def fill_waiting(default: TaskQueue, emails: TaskQueue) -> None:
    retried = await claim(emails, "send_receipt", {"payment_id": 48_187}, retries=5)
    remember(
        retried,
        "retry",
        error="smtplib.SMTPServerDisconnected: Connection unexpectedly closed",
        error_type="SMTPServerDisconnected",
        started=millis(-64),
        completed=millis(-59),
        worker=WORKER,
    )
    retried.status, retried.attempts, retried.scheduled, retried.started = Status.QUEUED, 1, int(time.time() + 95), 0
    await emails.settle(retried, Settlement.RETRY, delay=95)
    for number in range(23):
        await put(
            emails, "send_campaign_mail", {"recipient_id": 88_600 + number}, tag="campaign-31", queued=millis(-14)
        )
    await put(default, "checksum", {"text": "The quick brown fox"}, queued=millis(-2))
    for user in range(3):
        await put(
            default, "send_welcome_email", {"user_id": 9_200 + user}, scheduled=int(time.time()) + 540 + 60 * user
        )


async def fill_history(engine: AsyncEngine, tables: tuple[Table, Table], *queues: TaskQueue) -> None:
    """The same jobs, and those of four weeks before them, which the broker has forgotten."""
    async with engine.begin() as connection:
        for table in tables:
            await connection.run_sync(table.create)
    rows = HistoryRows(engine, *tables)
    for queue in queues:
        for state in ENDED:
            page = await queue.page(JobFilter(state=state))
            ended = [entry(job, queue.label, job.id, "ended") for job in page.jobs]
            await rows.write(ended)
            for week in range(1, 5):
                await rows.write([earlier(one, week) for one in ended])
    outage = {"since": millis(-8 * DAY), "until": millis(-8 * DAY + 1_260), "lost": 2_318, "process": "worker-2:3120"}
    await rows.write([], {**outage, "id": "1", "reason": "connection to server at 10.0.4.9 was lost"})


def earlier(one: dict[str, Any], weeks: int) -> dict[str, Any]:
    moments = ("enqueued", "changed", "started", "ended")
    past = {name: one[name] - weeks * 7 * DAY * 1000 for name in moments if one.get(name)}
    log = json.loads(one.get("log") or "[]")
    for attempt in log:
        attempt |= {name: attempt[name] - weeks * 7 * DAY * 1000 for name in ("started", "completed") if attempt[name]}
    again = one["id"].endswith("weekly-report-2026-W47")
    id = one["id"].replace("W47", f"W{47 - weeks}") if again else f"{one['id'][:-3]}{weeks:03}"
    return one | past | {"id": id, "log": json.dumps(log)}


async def what_a_report_raised() -> str:
    """The traceback of the reference app's report, whose database did not answer."""

    class Payments:
        async def totals(self, *, since: datetime) -> dict[str, int]:
            raise TimeoutError("postgresql://reports:s3cr3t-pw@10.0.4.9:5432/shop did not answer within 30 s")

    try:
        await cast("Any", weekly_report).fn({}, payments=Payments(), mailbox=None)
    except TimeoutError:
        return traceback.format_exc()
    raise AssertionError("it was to raise")


async def end(
    queue: TaskQueue,
    function: str,
    kwargs: dict[str, Any],
    ago: float,
    took: float,
    *,
    how: Settlement = Settlement.COMPLETE,
    result: Any = None,
    error: str | None = None,
    attempts: int = 1,
    **fields: Any,
) -> None:
    job = await claim(queue, function, kwargs, **fields)
    job.status = {Settlement.COMPLETE: Status.COMPLETE, Settlement.ABORTED: Status.ABORTED}.get(how, Status.FAILED)
    job.started, job.completed, job.queued = millis(-ago - took), millis(-ago), millis(-ago - took - 0.02)
    job.attempts, job.result, job.error = attempts, result, error
    if attempts > 1:
        for number in range(attempts - 1):
            remember(
                job,
                "retry",
                error=error,
                error_type="ConnectionRefusedError",
                worker=WORKER,
                started=millis(-ago - 30 * (attempts - number)),
                completed=millis(-ago - 30 * (attempts - number) + 5),
            )
    await queue.settle(job, how)


async def claim(queue: TaskQueue, function: str, kwargs: dict[str, Any], **fields: Any) -> ClaimedJob:
    await put(queue, function, kwargs, **fields)
    (job,) = await queue.claim(1)
    job.worker_id = WORKER
    return job


async def put(
    queue: TaskQueue,
    function: str,
    kwargs: dict[str, Any],
    *,
    key: str = "",
    tag: str = "",
    queued: int = 0,
    **fields: Any,
) -> None:
    job = Job(
        function=function, kwargs=kwargs, meta={"tag": tag} if tag else {}, timeout=fields.pop("timeout", 300), **fields
    )
    job.key = key or job.key
    await queue.enqueue(job)
    if queued:
        await queue.update(job, queued=queued)


async def beat(*queues: TaskQueue) -> None:
    """What workers say of themselves: two that live, and one that was lost."""
    while True:
        for queue in queues:
            for id, host, pid, silent, running in (
                (WORKER, "worker-1", 4711, 0, 1 if queue.label == "default" else 4),
                (WORKER.replace("7c1e", "91d2"), "worker-2", 3120, 0, 0),
                (WORKER.replace("7c1e", "0ab4"), "worker-3", 2967, 720, 3),
            ):
                await queue.write_worker_info(id, report(queue.label, host, pid, silent, running), ttl=3600)
        await asyncio.sleep(5)


def report(label: str, host: str, pid: int, silent: int, running: int) -> WorkerInfo:
    done = 51_204 if label == "emails" else 12_077
    info = {
        "stats": {"complete": done - pid, "failed": 31, "retried": 212, "aborted": 2, "uptime": 86_400_000},
        "queue_key": f"production.{label}",
        "metadata": None,
        "process": {
            "host": host,
            "pid": pid,
            "version": "litestar-tasks 0.1.0, Python 3.12.4",
            "started": millis(-93_600),
            "seen": millis(-silent),
            "running": running,
            "concurrency": 20 if label == "emails" else 10,
            "load": 1.42,
            "cpus": 4,
            "stopped": False,
        },
    }
    return cast("WorkerInfo", info)


def bucket(seconds: float) -> int:
    return next((index for index, bound in enumerate(BOUNDS) if seconds <= bound.total_seconds()), len(BOUNDS))


def millis(seconds: float = 0.0) -> int:
    return int((time.time() + seconds) * 1000)
