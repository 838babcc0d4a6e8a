"""litestar-saq's ``TaskQueues``, with the types that its queues have here."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ("TaskQueues",)

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from litestar_tasks.queues.base import TaskQueue

    class TaskQueues:
        """What routes are injected with as ``task_queues``: the queues by name.

        At run time it is litestar-saq's class itself, which msgspec insists on; type checkers see that ``enqueue``
        answers a ``Job``, never None.
        """

        queues: MutableMapping[str, TaskQueue]

        def __init__(self, queues: MutableMapping[str, TaskQueue] = ...) -> None: ...

        def get(self, name: str) -> TaskQueue:
            """A queue by its name.

            Raises:
                UnknownQueueError: There is none; names those that exist.
            """
            ...

else:
    from litestar_saq import TaskQueues
