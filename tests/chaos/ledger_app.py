"""An app whose tasks write what they do into a file that no broker knows: the ledger of effects.

Each line is ``<what> <job key> <pid>``, appended in one write: it survives the process, and lines do not mix.
"""

from __future__ import annotations

import asyncio
import os
import time

from litestar import Litestar

from litestar_tasks import CurrentJob, Registry, TasksConfig, TasksPlugin
from litestar_tasks.job import JobHandle

registry = Registry("chaos")


def note(what: str, job: JobHandle[object]) -> None:
    line = f"{what} {job.id.rpartition(':')[2]} {os.getpid()}\n".encode()
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


def create_app() -> Litestar:
    config = TasksConfig(
        registry=registry,
        broker_url=os.environ["BROKER_URL"],
        queue_configs=registry.queue_configs(
            default={"concurrency": 10, "shutdown_grace_period_s": int(os.environ.get("GRACE", "10"))}
        ),
        lease=float(os.environ.get("LEASE", "2")),
        dashboard=None,
    )
    return Litestar(plugins=[TasksPlugin(config)], logging_config=None)
