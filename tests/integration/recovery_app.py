"""An app for workers that are killed, stopped and suspended: its tasks say in a file that they run.

Each line is ``<what> <job key> <pid>``, appended in one write: lines stand in the order of what happened.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from litestar import Litestar

from litestar_tasks import CurrentJob, Registry, TasksConfig, TasksPlugin
from litestar_tasks.handle import JobHandle

registry = Registry("recovery", queue="q", timeout=None)


def note(what: str, job: JobHandle[object]) -> None:
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, f"{what} {job.id.rpartition(':')[2]} {os.getpid()}\n".encode())
    finally:
        os.close(ledger)


def may_end() -> bool:
    return Path(os.environ["GATE"]).exists()


async def until_it_may_end() -> None:
    while not may_end():  # noqa: ASYNC110  # another process says so
        await asyncio.sleep(0.02)


@registry.task
async def wait(*, job: CurrentJob) -> str:
    note("start", job)
    await until_it_may_end()
    return "done"


@registry.task(at_most_once=True)
async def wait_once(*, job: CurrentJob) -> str:
    note("start", job)
    await until_it_may_end()
    return "done"


@registry.task
def wait_in_thread(*, job: CurrentJob) -> str:
    note("start", job)
    while not may_end():
        note("run", job)
        time.sleep(0.01)
    return "done"


@registry.task(at_most_once=True)
def wait_once_in_thread(*, job: CurrentJob) -> str:
    note("start", job)
    while not may_end():
        time.sleep(0.02)
    return "done"


@asynccontextmanager
async def lingering(_: Litestar) -> AsyncIterator[None]:
    """Keeps the process alive for a while after its worker has stopped."""
    yield
    await asyncio.sleep(float(os.environ.get("LINGER", "0")))


def create_app() -> Litestar:
    config = TasksConfig(
        registry=registry,
        broker_url=os.environ["BROKER_URL"],
        queue_configs=registry.queue_configs(
            q={"concurrency": int(os.environ["CONCURRENCY"]), "shutdown_grace_period_s": 1}
        ),
        lease=float(os.environ["LEASE"]),
        dashboard=None,
    )
    return Litestar(plugins=[TasksPlugin(config)], lifespan=[lingering], logging_config=None)
