"""What can be done to jobs and queues. Each is logged with who did it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import HTTPException
from saq.job import TERMINAL_STATUSES

from litestar_tasks.dashboard.asking import asking, find_job
from litestar_tasks.job import ENDS
from litestar_tasks.queues.locks import lock_of

if TYPE_CHECKING:
    from litestar import Request

    from litestar_tasks.dashboard.visit import Visit
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.operations import Capability

__all__ = ("DONE", "USER", "abort", "conflict", "delete", "log", "needs", "pause", "purge", "resume", "retry", "who")

logger = logging.getLogger("litestar_tasks.dashboard")

DONE: Final = {"retry": "retried", "abort": "aborted", "delete": "deleted"}
"""What has become of a job by an action."""
USER: Final = "litestar_tasks_user"
"""Where ``BasicAuth`` leaves the name of who passed it, in the request's ``state``."""


async def retry(visit: Visit, queue: TaskQueue, key: str) -> str:
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
        raise conflict(
            f"Job {job.key!r} is unique, and another one like it waits or runs. It can be retried once that has ended."
        )
    if not accepted:  # where it had ended when it was read, somebody else was faster
        raise conflict(
            f"Job {job.key!r} runs already."
            if job.status in TERMINAL_STATUSES
            else f"Job {job.key!r} has not ended; only a job that has ended can be retried."
        )
    log(visit, queue, "job %r (task %r, queue %r) was retried", job.key, job.function, queue.label)
    return job.key


async def abort(visit: Visit, queue: TaskQueue, key: str) -> str:
    """Abort a job that waits or runs.

    Returns:
        The job's key.

    Raises:
        HTTPException: Status 409, for a job that has ended.
        NotFoundException: There is no such job.
    """
    job = await find_job(queue, key)
    async with asking(queue):
        accepted = await queue.cancel(job.key, f"aborted from the dashboard by {who(visit.request)}")
    if not accepted:
        raise conflict(f"Job {job.key!r} has ended already; there is nothing to abort.")
    log(visit, queue, "job %r (task %r, queue %r) was aborted", job.key, job.function, queue.label)
    return job.key


async def delete(visit: Visit, queue: TaskQueue, key: str) -> str:
    """Forget a job that has ended, with its record.

    Returns:
        The job's key.

    Raises:
        HTTPException: Status 409, for a job that has not ended.
        NotFoundException: There is no such job.
    """
    job = await find_job(queue, key)
    async with asking(queue):
        accepted = await queue.delete(job.key)
    if not accepted:
        raise conflict(f"Job {job.key!r} has not ended; only a job that has ended can be deleted. Abort it first.")
    log(visit, queue, "job %r (task %r, queue %r) was deleted", job.key, job.function, queue.label)
    return job.key


async def pause(visit: Visit, queue: TaskQueue) -> None:
    """Let nothing more be claimed from a queue."""
    needs(queue, "pause")
    async with asking(queue):
        await queue.pause(by=who(visit.request))
    log(visit, queue, "queue %r was paused", queue.label)


async def resume(visit: Visit, queue: TaskQueue) -> None:
    """Let jobs be claimed again."""
    needs(queue, "pause")
    async with asking(queue):
        await queue.resume()
    log(visit, queue, "queue %r was resumed", queue.label)


async def purge(visit: Visit, queue: TaskQueue) -> int:
    """Forget every job that waits. Returns how many there were."""
    async with asking(queue):
        number = await queue.purge()
    log(visit, queue, "queue %r was purged of %d jobs", queue.label, number)
    return number


def needs(queue: TaskQueue, capability: Capability) -> None:
    """Refuse what a queue's broker cannot do.

    Raises:
        HTTPException: Status 409.
    """
    if capability not in queue.capabilities:
        raise conflict(f"The broker of queue {queue.label!r} cannot do that; it has no {capability!r}.")


def log(visit: Visit, queue: TaskQueue | None, message: str, *values: object) -> None:
    """Say what was done and by whom, and let the next look be a fresh one."""
    logger.info(f"{message} by %s", *values, who(visit.request))  # noqa: G004  # a constant text of this package
    if queue is not None:
        visit.watch.forget(queue)


def who(request: Request[Any, Any, Any]) -> str:
    """Who sent a request, for the log: the user, where the app knows one, and the address."""
    address = request.client.host if request.client else "an unknown address"
    # By a field that names it; a user's repr could hold its password.
    user = request.scope.get("user") or request.scope.get("state", {}).get(USER)
    names = (getattr(user, name, None) for name in ("username", "email", "name", "id"))
    name = user if isinstance(user, str) else next((name for name in names if name is not None), None)
    return f"{str(name)[:100]!r} at {address}" if name is not None else address


def conflict(detail: str) -> HTTPException:
    """What cannot be done as things are."""
    return HTTPException(detail, status_code=409)
