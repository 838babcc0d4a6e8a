"""Every error that litestar-tasks raises.

::

    TasksError
    ├── DeclarationError             a declaration that cannot work: raised at import or at start-up
    │   ├── InvalidTaskError         the function cannot be a task
    │   ├── DuplicateTaskError       two functions under one name
    │   ├── InvalidScheduleError     a cron expression, interval, time zone or kwargs that cannot work
    │   ├── DependencyError          a parameter that nothing can supply
    │   └── ConfigurationError       a setting that cannot work, or that contradicts another
    ├── StartupError                 all of the above that were found together when the app started
    ├── EnqueueError                 a call that was not accepted: nothing was stored
    │   ├── UnknownTaskError         no task of that name
    │   ├── UnknownQueueError        no queue of that name
    │   ├── PayloadError             the arguments do not fit the task's signature, or cannot be stored
    │   ├── NotAttachedError         no running app to enqueue into
    │   └── QueueUnavailableError    the broker did not answer in time (503 in a route)
    ├── ScheduleNotFoundError        no schedule of that id
    ├── JobError                     what became of a job
    │   ├── JobNotFoundError         never existed, or its record is gone
    │   ├── JobFailedError           it failed; carries the remote traceback
    │   └── JobAbortedError          it was aborted
    │       └── JobDiscardedError    its task found it pointless, or it had not started before it expired
    └── BrokerError                  the broker itself
        └── EmbeddedServerError      the private server could not be started or joined

Each message names its subject, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = (
    "BrokerError",
    "ConfigurationError",
    "DeclarationError",
    "DependencyError",
    "DuplicateTaskError",
    "EmbeddedServerError",
    "EnqueueError",
    "InvalidScheduleError",
    "InvalidTaskError",
    "JobAbortedError",
    "JobDiscardedError",
    "JobError",
    "JobFailedError",
    "JobNotFoundError",
    "NotAttachedError",
    "PayloadError",
    "QueueUnavailableError",
    "ScheduleNotFoundError",
    "StartupError",
    "TasksError",
    "UnknownQueueError",
    "UnknownTaskError",
)


class TasksError(Exception):
    """The base of every error of this package."""


class DeclarationError(TasksError):
    """A task, schedule or setting that cannot work."""


class InvalidTaskError(DeclarationError):
    """The decorated object cannot be a task."""


class DuplicateTaskError(DeclarationError):
    """Two different functions were registered under one name."""


class InvalidScheduleError(DeclarationError):
    """A schedule that is malformed, never fires, or whose kwargs do not fit its task."""


class DependencyError(DeclarationError):
    """A parameter of a task, or of one of its dependencies, that nothing can supply."""


class ConfigurationError(DeclarationError):
    """A setting that cannot work, alone or beside another one."""


class StartupError(TasksError):
    """Everything that was found wrong when the application started, in one message.

    Attributes:
        problems: The single errors, in the order of their discovery.
    """

    def __init__(self, problems: Iterable[DeclarationError]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1))
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} found at the start:\n{lines}")


class EnqueueError(TasksError):
    """A call that was not accepted. Unless a subclass says otherwise, nothing was stored."""


class UnknownTaskError(EnqueueError):
    """No task of this name is registered.

    Attributes:
        name: The name that was asked for.
    """

    def __init__(self, name: str, known: Iterable[str], *, registry: str) -> None:
        self.name = name
        super().__init__(f"registry {registry!r} has no task {name!r}; {_suggest(name, known, 'tasks')}")


class UnknownQueueError(EnqueueError):
    """No queue of this name exists.

    Attributes:
        name: The name that was asked for.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        super().__init__(
            f"unknown queue {name!r} (a queue exists when a task or a QueueConfig names it); "
            f"{_suggest(name, known, 'queues')}"
        )


class PayloadError(EnqueueError):
    """The arguments of a call do not fit the task's signature, or cannot be stored.

    Attributes:
        task: The task's name.
        path: Where the fault lies, e.g. ``recipients[2].email``; empty when it concerns the whole call.
    """

    def __init__(self, task: str, message: str, *, path: str = "") -> None:
        self.task = task
        self.path = path
        where = f", argument {path!r}" if path else ""
        super().__init__(f"task {task!r}{where}: {message}")


class NotAttachedError(EnqueueError):
    """The registry is not attached to a running app, so there is no queue to enqueue into."""


class QueueUnavailableError(EnqueueError):
    """The broker could not be reached, or did not answer, before the deadline.

    Attributes:
        queue: The queue's name.
        job_id: The id under which the job may be found, if it got in; None where nothing was enqueued.
        maybe_enqueued: Whether the broker may have accepted the job although its answer never came.
            Enqueue again with the same ``key`` to be sure: the second one is a duplicate of the first.
    """

    def __init__(self, queue: str, reason: str, *, job_id: str | None = None, maybe_enqueued: bool = False) -> None:
        self.queue = queue
        self.job_id = job_id
        self.maybe_enqueued = maybe_enqueued
        doubt = (
            f"; job {job_id!r} may have been enqueued all the same, and can be enqueued again under the same key"
            if maybe_enqueued
            else ""
        )
        super().__init__(f"queue {queue!r} is unavailable: {reason}{doubt}")


class ScheduleNotFoundError(TasksError):
    """No schedule of this id is declared, or was added at run time.

    Attributes:
        id: The id that was asked for.
    """

    def __init__(self, id: str, known: Iterable[str]) -> None:
        self.id = id
        super().__init__(f"there is no schedule {id!r}; {_suggest(id, known, 'schedules')}")


class JobError(TasksError):
    """What became of a job.

    Attributes:
        job_id: The id of the job.
    """

    def __init__(self, job_id: str, message: str) -> None:
        self.job_id = job_id
        super().__init__(message)


class JobNotFoundError(JobError):
    """The job never existed, or its record has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"job {job_id!r} was not found: it never existed or its record has expired")


class JobFailedError(JobError):
    """The job failed.

    Attributes:
        error: What the worker recorded: the remote traceback, or a sentence.
        error_type: The name of the exception's class; None where the job failed for another reason.
    """

    def __init__(self, job_id: str, error: str, *, error_type: str | None = None) -> None:
        self.error = error
        self.error_type = error_type
        super().__init__(job_id, f"job {job_id!r} failed:\n{error}")


class JobAbortedError(JobError):
    """The job was aborted.

    Attributes:
        reason: Who aborted it, or why.
    """

    _participle = "aborted"

    def __init__(self, job_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(job_id, f"job {job_id!r} was {self._participle}: {reason}")


class JobDiscardedError(JobAbortedError):
    """The job was discarded: by its own task, by an exception in ``discard_on``, or because it expired.

    It is an abort that nobody else asked for, and who does not tell the two apart catches ``JobAbortedError``.
    """

    _participle = "discarded"


class BrokerError(TasksError):
    """The broker, or the way to it, does not work."""


class EmbeddedServerError(BrokerError):
    """The embedded server could not be started, joined or stopped."""


def _suggest(name: str, known: Iterable[str], what: str) -> str:
    names = sorted(known)
    if not names:
        return f"no {what} are registered"
    close = get_close_matches(name, names, n=3)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"known {what}: {shown}"
