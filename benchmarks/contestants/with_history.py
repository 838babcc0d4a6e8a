"""litestar-tasks as in ``ours``, with its history on, in the database that ``BENCHMARK_DATABASE`` names."""

from __future__ import annotations

import os
from collections.abc import Callable

from litestar import Litestar

from benchmarks.contestants.ours import BULK, JOBS, PACKAGES, REQUIREMENTS, SAFETY, Producer, registry, unfinished
from litestar_tasks import HistoryConfig, QueueConfig, TasksConfig, TasksPlugin

__all__ = ("BULK", "DATABASE", "JOBS", "LABEL", "PACKAGES", "REQUIREMENTS", "SAFETY", "Producer", "unfinished", "work")

LABEL = "litestar-tasks with history"
DATABASE = "BENCHMARK_DATABASE"


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    """What a child of ``litestar workers run`` does; the tables are made first."""
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin

    database = SQLAlchemyPlugin(SQLAlchemyAsyncConfig(connection_string=os.environ[DATABASE], create_all=True))
    queue = QueueConfig(name="default", concurrency=concurrency)
    config = TasksConfig(registry=registry, broker_url=url, queue_configs=[queue], history=HistoryConfig())
    plugin = TasksPlugin(config)
    await plugin.run_worker(Litestar(plugins=[plugin, database], logging_config=None), on_ready=ready)
