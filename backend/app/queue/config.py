"""Which task modules exist, and how this app's queues are set up."""

from __future__ import annotations

# Import all task modules, so that their decorators run.
from app.campaigns import tasks as campaign_tasks  # noqa: F401
from app.payments import tasks as payment_tasks  # noqa: F401
from app.queue import tasks  # noqa: F401
from app.queue.registry import registry
from app.settings import Settings
from app.users import tasks as user_tasks  # noqa: F401
from litestar_tasks import HistoryConfig, OutboxConfig, TasksConfig

__all__ = ("tasks_config",)


def tasks_config(settings: Settings) -> TasksConfig:
    """The configuration of ``TasksPlugin``, the same for the web process and the worker."""
    return TasksConfig(
        registry=registry,
        broker_url=settings.tasks_broker_url,
        embedded_directory=settings.embedded_dir,
        namespace=settings.environment,
        # Queues that a task names exist already; this sets how many of their jobs one worker runs at a time.
        queue_configs=registry.queue_configs(default={"concurrency": 10}, emails={"concurrency": 20}),
        # Lets routes enqueue within their transaction; app/payments does.
        outbox=OutboxConfig(),
        # What became of jobs, for longer than the broker keeps it.
        history=HistoryConfig(),
        # Jobs in memory are this process's own, so nobody else could run them.
        in_process_worker=(settings.tasks_broker_url or "").startswith("memory://"),
    )
