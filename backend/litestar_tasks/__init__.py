"""Background jobs for Litestar, on SAQ: decorate a function, enqueue it from a route, watch it at ``/saq``.

::

    registry = Registry("app")

    @registry.task(queue="emails", timeout=30)
    async def send_receipt(*, payment_id: int) -> str: ...

    app = Litestar(routes, plugins=[TasksPlugin(TasksConfig(registry=registry))])

    job = await send_receipt.enqueue(payment_id=7)      # in a route, or in another task
    assert await job.result(timeout=30) == "sent"       # job.id, await job.status(), await job.abort()
"""

from __future__ import annotations

from litestar_tasks.config import DashboardConfig, HistoryConfig, OutboxConfig, QueueConfig, TasksConfig
from litestar_tasks.correlation import correlation_id
from litestar_tasks.current import CurrentJob, track
from litestar_tasks.exceptions import (
    BrokerError,
    ConfigurationError,
    DeclarationError,
    DependencyError,
    DuplicateTaskError,
    EmbeddedServerError,
    EnqueueError,
    InvalidScheduleError,
    InvalidTaskError,
    JobAbortedError,
    JobDiscardedError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    NotAttachedError,
    PayloadError,
    QueueUnavailableError,
    ScheduleNotFoundError,
    StartupError,
    TasksError,
    UnknownQueueError,
    UnknownTaskError,
)
from litestar_tasks.follow_ups import ERROR, RESULT
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import Event, JobOutcome, JobSpec, JobStatus, LogLine
from litestar_tasks.middleware import CallNext, EnqueueHook, Middleware
from litestar_tasks.options import EnqueueOptions, RegistryOptions, TaskOptions
from litestar_tasks.plugin import TasksPlugin
from litestar_tasks.queues.operations import JobFilter
from litestar_tasks.queues.task_queues import TaskQueues
from litestar_tasks.registry import Registry
from litestar_tasks.retry import Backoff, Constant, Discard, Exponential, Linear, Retry, Snooze
from litestar_tasks.schedule import Firing, Mark, Schedule, ScheduleOptions, ScheduleState
from litestar_tasks.secret import Secret
from litestar_tasks.signature import INJECTED
from litestar_tasks.task import AnyTask, Call, ContextTask, Enqueuer, SyncContextTask, Task, enqueue_many
from litestar_tasks.uniqueness import Debounce, Exclusive, Throttle, Unique

__all__ = (
    "ERROR",
    "INJECTED",
    "RESULT",
    "AnyTask",
    "Backoff",
    "BrokerError",
    "Call",
    "CallNext",
    "ConfigurationError",
    "Constant",
    "ContextTask",
    "CurrentJob",
    "DashboardConfig",
    "Debounce",
    "DeclarationError",
    "DependencyError",
    "Discard",
    "DuplicateTaskError",
    "EmbeddedServerError",
    "EnqueueError",
    "EnqueueHook",
    "EnqueueOptions",
    "Enqueuer",
    "Event",
    "Exclusive",
    "Exponential",
    "Firing",
    "HistoryConfig",
    "InvalidScheduleError",
    "InvalidTaskError",
    "JobAbortedError",
    "JobDiscardedError",
    "JobError",
    "JobFailedError",
    "JobFilter",
    "JobHandle",
    "JobNotFoundError",
    "JobOutcome",
    "JobSpec",
    "JobStatus",
    "Linear",
    "LogLine",
    "Mark",
    "Middleware",
    "NotAttachedError",
    "OutboxConfig",
    "PayloadError",
    "QueueConfig",
    "QueueUnavailableError",
    "Registry",
    "RegistryOptions",
    "Retry",
    "Schedule",
    "ScheduleNotFoundError",
    "ScheduleOptions",
    "ScheduleState",
    "Secret",
    "Snooze",
    "StartupError",
    "SyncContextTask",
    "Task",
    "TaskOptions",
    "TaskQueues",
    "TasksConfig",
    "TasksError",
    "TasksPlugin",
    "Throttle",
    "Unique",
    "UnknownQueueError",
    "UnknownTaskError",
    "correlation_id",
    "enqueue_many",
    "track",
)
