"""One declared function: what it takes, how it is called, and how its calls are enqueued."""

from __future__ import annotations

from litestar_tasks.task.call import Call, Enqueuer, enqueue_many
from litestar_tasks.task.declaration import no_keys
from litestar_tasks.task.faces import ContextTask, SyncContextTask, Task
from litestar_tasks.task.naming import load, refuse_unnameable
from litestar_tasks.task.task import AnyTask

__all__ = (
    "AnyTask",
    "Call",
    "ContextTask",
    "Enqueuer",
    "SyncContextTask",
    "Task",
    "enqueue_many",
    "load",
    "no_keys",
    "refuse_unnameable",
)
