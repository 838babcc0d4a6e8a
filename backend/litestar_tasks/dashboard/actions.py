"""What can be done to a job: run it again, or abort it. Each is logged with who did it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from litestar.exceptions import HTTPException
from saq.job import TERMINAL_STATUSES

from litestar_tasks.dashboard.views import asking, find_job
from litestar_tasks.job import ENDS
from litestar_tasks.queues.locks import lock_of

if TYPE_CHECKING:
    from litestar import Request

    from litestar_tasks.queues.base import TaskQueue

__all__ = ("abort", "retry", "who")

logger = logging.getLogger("litestar_tasks.dashboard")


async def retry(queue: TaskQueue, key: str, by: str) -> str:
    """Run a job again that has ended, or start one now that waits for its next attempt.

    Returns:
        The job's key.

    Raises:
        HTTPException: Status 409, for a job that waits or runs.
        NotFoundException: There is no such job.
    """
    job = await find_job(queue, key)
    async with asking(queue):
        accepted = await queue.rerun(job.key)
        locked = not accepted and lock_of(job) is not None and await queue.status(job.key) in ENDS
    if locked:
        raise _conflict(
            f"Job {job.key!r} is unique, and another one like it waits or runs. It can be retried once that has ended."
        )
    if not accepted:  # where it had ended when it was read, somebody else was faster
        raise _conflict(
            f"Job {job.key!r} runs already."
            if job.status in TERMINAL_STATUSES
            else f"Job {job.key!r} has not ended; only a job that has ended can be retried."
        )
    logger.info("job %r (task %r, queue %r) was retried by %s", job.key, job.function, queue.label, by)
    return job.key


async def abort(queue: TaskQueue, key: str, by: str) -> str:
    """Abort a job that waits or runs.

    Returns:
        The job's key.

    Raises:
        HTTPException: Status 409, for a job that has ended.
        NotFoundException: There is no such job.
    """
    job = await find_job(queue, key)
    async with asking(queue):
        accepted = await queue.cancel(job.key, f"aborted from the dashboard by {by}")
    if not accepted:
        raise _conflict(f"Job {job.key!r} has ended already; there is nothing to abort.")
    logger.info("job %r (task %r, queue %r) was aborted by %s", job.key, job.function, queue.label, by)
    return job.key


def who(request: Request[Any, Any, Any]) -> str:
    """Who sent a request, for the log: the user, where the app knows one, and the address."""
    address = request.client.host if request.client else "an unknown address"
    # By a field that names it; a user's repr could hold its password.
    user = request.scope.get("user")
    names = (getattr(user, name, None) for name in ("username", "email", "name", "id"))
    name = user if isinstance(user, str) else next((name for name in names if name is not None), None)
    return f"{str(name)[:100]!r} at {address}" if name is not None else address


def _conflict(detail: str) -> HTTPException:
    return HTTPException(detail, status_code=409)
