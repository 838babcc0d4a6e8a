"""An app whose tasks write what they do into a file that no broker knows: the ledger of effects.

Each line is ``<what> <job key> <pid> <moment>``, appended in one write: it survives the process, and lines do not mix.
The moment is of the machine's monotonic clock, which all of its processes share.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta

from litestar import Litestar

from litestar_tasks import CurrentJob, Registry, TasksConfig, TasksPlugin
from litestar_tasks.handle import JobHandle

registry = Registry("chaos")

QUEUES = ("default", "mail", "reports")
"""Every worker works on all of them."""


def note(what: str, job: JobHandle[object]) -> None:
    line = f"{what} {job.id.rpartition(':')[2]} {os.getpid()} {time.monotonic()}\n".encode()
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line)
    finally:
        os.close(ledger)


@registry.task(timeout=None)
async def work(*, seconds: float, job: CurrentJob) -> str:
    note("start", job)
    await asyncio.sleep(seconds)
    note("end", job)
    return "done"


@registry.task(timeout=None)
def work_in_thread(*, seconds: float, job: CurrentJob) -> str:
    note("start", job)
    time.sleep(seconds)
    note("end", job)
    return "done"


@registry.task(queue="mail", timeout=None)
async def send(*, seconds: float, job: CurrentJob) -> str:
    note("start", job)
    await asyncio.sleep(seconds)
    note("end", job)
    return "done"


@registry.task(queue="reports", priority=10, timeout=None)
def report(*, seconds: float, job: CurrentJob) -> str:
    note("start", job)
    time.sleep(seconds)
    note("end", job)
    return "done"


if "TICKS" in os.environ:

    @registry.scheduled_task(every=timedelta(seconds=1), timeout=None, overlap="allow")
    async def tick(*, job: CurrentJob) -> None:
        note("start", job)
        await asyncio.sleep(600)


if "SLOTS_FROM" in os.environ:
    first = datetime.fromtimestamp(int(os.environ["SLOTS_FROM"]), UTC)

    @registry.scheduled_task(
        every=timedelta(seconds=1),
        start=first,
        end=first + timedelta(seconds=59),
        misfire="all",
        overlap="allow",
    )
    async def slot(*, job: CurrentJob) -> None:
        note("start", job)
        note("end", job)


@registry.task(timeout=None, at_most_once=True)
async def charge(*, seconds: float, job: CurrentJob) -> str:
    note("start", job)
    await asyncio.sleep(seconds)
    note("end", job)
    return "done"


def create_app() -> Litestar:
    # Firings that run for ten minutes are not to take the slots that the test of them waits for.
    settings = {
        "keep_complete": 1_000_000,  # the records say what followed which job
        "concurrency": 100 if "TICKS" in os.environ else 10,
        "shutdown_grace_period_s": int(os.environ.get("GRACE", "10")),
    }
    config = TasksConfig(
        registry=registry,
        broker_url=os.environ["BROKER_URL"],
        queue_configs=registry.queue_configs(**dict.fromkeys(QUEUES, settings)),
        lease=float(os.environ.get("LEASE", "2")),
        dashboard=None,
    )
    return Litestar(plugins=[TasksPlugin(config)], logging_config=None)
