"""The options of tasks and calls: their types and their defaults.

Precedence, highest first: call (``using``), task (the decorator), registry (``Registry("app", timeout=60)``),
built-in (``DEFAULTS``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypedDict

from litestar.di import Provide

from litestar_tasks.follow_ups import BoundCall
from litestar_tasks.middleware import EnqueueHook, Middleware
from litestar_tasks.retry import DEFAULT_BACKOFF, Backoff
from litestar_tasks.uniqueness import Debounce, Exclusive, Throttle, Unique

__all__ = (
    "DEFAULTS",
    "DatabaseSession",
    "EnqueueOptions",
    "RegistryOptions",
    "SharedOptions",
    "TaskOptions",
)


class DatabaseSession(Protocol):
    """SQLAlchemy's ``AsyncSession``, for those who have no SQLAlchemy."""

    @property
    def sync_session(self) -> Any:
        """What it stands for."""
        ...


class SharedOptions(TypedDict, total=False):
    """What every level takes."""

    queue: str
    """The queue the job goes to. Defaults to "default"."""
    timeout: float | timedelta | None
    """How long one attempt may take, in seconds or as a timedelta; None for no limit. The clock starts with the
    function, not with the claim. Defaults to 300 seconds."""
    max_attempts: int
    """How often the job is run at the most before its failure is final; it counts runs, so 1 means no retry.
    ``backoff`` says how long a retry waits. Defaults to 1."""
    ttl: float | timedelta | None
    """How long the record and the result of a complete job are kept; None for ever, 0 not at all. Even then it can be
    found by its id for a minute, so that a repeated enqueue does not run it again. Defaults to one day."""
    priority: int
    """Lower numbers are claimed first, from -100 to 100. Defaults to 0."""
    at_most_once: bool
    """A job whose worker is lost or stopped while it runs fails, with that reason, instead of running again. Errors are
    still retried as ``max_attempts`` says. Defaults to False."""
    max_losses: int
    """After the loss of so many workers that ran it, the job fails, as it may be the cause. A loss does not count as an
    attempt. Defaults to 3."""
    expires: float | timedelta | None
    """How long after its enqueue, or its ``run_at``, the job may still start for the first time: a worker discards a
    later one without running it. None for no limit. Defaults to None."""
    failed_ttl: float | timedelta
    """How long the record of a job that failed or was aborted is kept at least. Defaults to 7 days."""
    tag: str | None
    """A short text of yours, such as a customer's number, by which jobs can be found; up to 100 characters. Defaults to
    none."""
    unique: bool | Unique
    """While a job with the same arguments waits or runs, a further call stores nothing and gets a handle to it.
    ``Unique(…)`` says which calls are alike, and until when. Defaults to False."""
    exclusive: bool | Exclusive
    """One job of the task runs at a time, the others wait their turn; with ``Exclusive(by=…)`` one for each value of
    these arguments. Defaults to False."""
    debounce: float | timedelta | Debounce | None
    """How long after the last of several calls the one job starts, with the arguments of the last. ``Debounce(…)`` says
    which calls are alike, and how long it may be put off. Defaults to None."""
    throttle: float | timedelta | Throttle | None
    """For so long after an enqueue, a further call stores nothing and gets a handle to that job. ``Throttle(…)`` says
    which calls are alike. Defaults to None."""
    backoff: Backoff
    """How long a retry waits: ``Constant``, ``Linear``, ``Exponential``, or a function of the number of the attempt
    that failed, which a call cannot have, as it is stored. Defaults to Exponential(): a random time of at most 1 s,
    2 s, 4 s, … and 300 s."""
    retry_on: type[Exception] | tuple[type[Exception], ...]
    """The exceptions that a further attempt may mend; with any other one the job fails at once. A timeout is a
    ``TimeoutError``. Defaults to Exception: all of them."""
    discard_on: type[Exception] | tuple[type[Exception], ...]
    """The exceptions that make the job pointless: it is discarded. This wins over ``retry_on``. Defaults to none."""


class RegistryOptions(SharedOptions, total=False):
    """What ``@task(…)`` and ``Registry(…)`` take: also what is not stored with a job, but looked up by the worker."""

    payload_limit: int
    """How many bytes of JSON the arguments of a call may have; a larger one is refused when it is made. Defaults to
    262,144: 256 KiB."""
    result_limit: int
    """How many bytes of JSON the result may have; with a larger one the job fails, and is not run again. Defaults to
    1,048,576: 1 MiB."""
    executor: Literal["thread", "process"]
    """Where sync functions run: in threads of the worker, or in processes of their own, which can be killed, and whose
    computing holds up nobody else. Has no effect on async functions. Defaults to "thread"."""
    dependencies: Mapping[str, Provide | Callable[..., Any]]
    """Litestar providers by the name of the parameter that they supply, before those of the app. A task has its own
    and its registry's. Defaults to none."""
    middleware: Sequence[Middleware]
    """Middleware around each attempt: ``async def (job, call_next)``. The app's is outermost, then come the registry's
    and the task's, each in the order given. Defaults to none."""
    on_enqueue: Sequence[EnqueueHook]
    """Hooks that see each call before it is stored, and may add to its ``meta``: ``def (spec)``. The app's come first,
    then the registry's and the task's. Defaults to none."""


class FollowUpOptions(TypedDict, total=False):
    """What tasks and calls take."""

    on_success: BoundCall | Sequence[BoundCall]
    """The call, or calls, that are enqueued when the job is complete: ``other.bind(receipt=RESULT)``. Defaults to
    none."""
    on_failure: BoundCall | Sequence[BoundCall]
    """The call, or calls, that are enqueued when the job ends otherwise, unless it is discarded by its own task:
    ``third.bind(why=ERROR)``. Defaults to none."""


class TaskOptions(RegistryOptions, FollowUpOptions, total=False):
    """What ``@task(…)`` takes."""

    name: str
    """The task's name, by which it is enqueued and stored. Defaults to the function's name."""


class EnqueueOptions(SharedOptions, FollowUpOptions, total=False):
    """What ``using(…)`` takes."""

    delay: float | timedelta
    """How long the job waits at least before it starts. Not together with ``run_at``. Defaults to none."""
    run_at: datetime
    """When the job starts at the earliest: an aware datetime. Not together with ``delay``. Defaults to at once."""
    key: str
    """The job's key. While a job of this key is not finished, another enqueue under it stores nothing and returns
    that job. Defaults to a random one."""
    session: DatabaseSession | None
    """The SQLAlchemy session whose transaction the job is part of: it exists once that has committed, and never if it
    is rolled back. None for no transaction, also where ``OutboxConfig.in_requests`` would take the request's. Defaults
    to none."""


DEFAULTS: Final[Mapping[str, Any]] = {
    "queue": "default",
    "timeout": 300.0,
    "max_attempts": 1,
    "ttl": 86_400.0,
    "priority": 0,
    "at_most_once": False,
    "max_losses": 3,
    "expires": None,
    "failed_ttl": 604_800.0,
    "tag": None,
    "on_success": (),
    "on_failure": (),
    "unique": None,
    "exclusive": None,
    "debounce": None,
    "throttle": None,
    "backoff": DEFAULT_BACKOFF,
    "retry_on": (Exception,),
    "discard_on": (),
    "payload_limit": 262_144,
    "result_limit": 1_048_576,
    "executor": "thread",
    "dependencies": {},
    "middleware": (),
    "on_enqueue": (),
}
