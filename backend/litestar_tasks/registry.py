"""What exists: the tasks of an application, their schedules, and the defaults they share."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Concatenate, Never, overload

from saq.types import Context
from typing_extensions import ParamSpec, TypedDict, TypeVar, Unpack

from litestar_tasks.attachment import Attachment, Attachments
from litestar_tasks.codec import Hooks
from litestar_tasks.exceptions import (
    ConfigurationError,
    DeclarationError,
    DuplicateTaskError,
    UnknownTaskError,
)
from litestar_tasks.handle import JobHandle
from litestar_tasks.middleware import EnqueueHook
from litestar_tasks.option_checks import check_options
from litestar_tasks.options import DEFAULTS, RegistryOptions, TaskOptions
from litestar_tasks.queue_config import QueueConfig
from litestar_tasks.recurring import Recurring, encode_kwargs, make_schedule
from litestar_tasks.schedule import Misfire, Overlap, Schedule
from litestar_tasks.task import AnyTask, ContextTask, SyncContextTask, Task, no_keys, refuse_unnameable

__all__ = ("Registry", "TaskDecorator")

P = ParamSpec("P")
R = TypeVar("R")
# A *bound* picks the overload without splitting the signature. With Callable[Concatenate[Context, P], ...] in the
# overload itself, mypy turns every signature that holds an Any (Context does) into Task[Any, ...] and checks nothing.
AsyncF = TypeVar("AsyncF", bound=Callable[Concatenate[Context, ...], Coroutine[Any, Any, Any]])
SyncF = TypeVar("SyncF", bound=Callable[Concatenate[Context, ...], Any])


class QueueOptions(TypedDict, total=False):
    """The settings of one queue in ``Registry.queue_configs``; see ``QueueConfig``."""

    concurrency: int
    processes: int | None
    shutdown_grace_period_s: int | None
    keep_complete: int
    keep_failed: int
    metadata: dict[str, Any] | None


class TaskDecorator:
    """``registry.task``: a decorator with or without options, and what ``registry.scheduled_task(…)`` returns."""

    def __init__(self, register: Callable[[Callable[..., Any], Mapping[str, Any]], Any], options: TaskOptions) -> None:
        self._register = register
        self._options = options

    @overload
    def __call__(self, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    @overload
    def __call__(self, fn: AsyncF, /) -> ContextTask[AsyncF]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]  # the first match wins, in both checkers
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: SyncF, /) -> SyncContextTask[SyncF]: ...  # pyright: ignore[reportOverlappingOverload]  # as above
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R, R]: ...
    def __call__(self, fn: Any = None, /, **options: Any) -> Any:
        """Register a function, or take options for the function that follows.

        Args:
            fn: The function. Left out where options are given: ``@task(queue="emails")``.
            options: See ``TaskOptions``.

        Raises:
            DeclarationError: The function cannot be a task, or an option cannot work; nothing was registered.
        """
        if options:
            if fn is not None:
                raise ConfigurationError("give a decorator either the function or options: @task(queue=…)")
            return TaskDecorator(self._register, {**self._options, **options})  # type: ignore[typeddict-item]  # checked at registration
        if fn is None:
            return self
        if isinstance(fn, str):
            raise ConfigurationError(f"@task({fn!r}): the name of a task is an option: @task(name={fn!r})")
        return self._register(fn, self._options)


class Registry(Recurring):
    """The tasks of one application.

    Make one in a module of its own, and import its decorators where tasks are written::

        registry = Registry("app")
        task = registry.task
        scheduled_task = registry.scheduled_task

    Args:
        name: Names the registry in errors. Defaults to "tasks".
        allow_local: Also take functions that are local to another function, which only a worker of the same process
            can run: for tests. Defaults to False.
        defaults: Options of every task that does not set them itself; see ``RegistryOptions``.

    Attributes:
        task: The decorator: ``@task`` or ``@task(queue="emails", timeout=30)``.
        name: The registry's name.
        defaults: The checked defaults, durations in seconds.
        on_enqueue: The hooks that see calls before they are stored, by the task's name; only of tasks that have any.
    """

    def __init__(self, name: str = "tasks", *, allow_local: bool = False, **defaults: Unpack[RegistryOptions]) -> None:
        self.name = name
        self.defaults: Mapping[str, Any] = check_options(defaults, RegistryOptions, subject=f"registry {name!r}")
        self.task = TaskDecorator(self._register, {})
        self._allow_local = allow_local
        self.on_enqueue: dict[str, tuple[EnqueueHook, ...]] = {}
        self._tasks: dict[str, AnyTask] = {}
        self._schedules: dict[str, Schedule] = {}
        self._attachments = Attachments(name)

    def scheduled_task(
        self,
        *unnamed: Never,
        cron: str | None = None,
        every: timedelta | None = None,
        timezone: str = "UTC",
        kwargs: Mapping[str, Any] | None = None,
        misfire: Misfire = "once",
        overlap: Overlap = "skip",
        jitter: float | timedelta = 0.0,
        start: datetime | None = None,
        end: datetime | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskDecorator:
        """A decorator for a task that recurs. It can be enqueued by hand like any other.

        Args:
            unnamed: Nothing: each option has its name.
            cron: See ``ScheduleOptions``, as for the next ones. Either this or ``every``.
            every: The time between two firings. Either this or ``cron``.
            timezone: Where ``cron`` is read. Defaults to "UTC".
            kwargs: The arguments of the recurring call; calls by hand give their own. Defaults to none.
            misfire: What becomes of firings that nobody got to. Defaults to "once".
            overlap: What a firing does while the last job has not ended. Defaults to "skip".
            jitter: Up to how much later firings come, by chance. Defaults to 0.
            start: When it begins to fire. Defaults to None: at once.
            end: When it ceases to. Defaults to None: never.
            options: See ``TaskOptions``.

        Raises:
            DeclarationError: Raised by the decorated function's line: the schedule cannot work, its kwargs do not
                fit the signature, or the function cannot be a task. Nothing was registered.
        """
        if unnamed:
            raise ConfigurationError(
                "a schedule's rhythm is given by name: @scheduled_task(cron='0 2 * * *') or "
                "@scheduled_task(every=timedelta(minutes=10))"
            )
        recurrence = {
            "cron": cron,
            "every": every,
            "timezone": timezone,
            "kwargs": kwargs,
            "misfire": misfire,
            "overlap": overlap,
            "jitter": jitter,
            "start": start,
            "end": end,
        }

        def register(fn: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
            task = self._make(fn, options)
            schedule = make_schedule(task, task.name, recurrence)
            self._add(task)
            self._schedules[schedule.id] = schedule
            return task

        return TaskDecorator(register, options)

    def get_task(self, name: str) -> Task[..., Any]:
        """A task by its name.

        Raises:
            UnknownTaskError: There is none; names the nearest ones.
        """
        task = self.find_task(name)
        if task is None:
            raise UnknownTaskError(name, self._tasks, registry=self.name)
        return task

    def find_task(self, name: str) -> Task[..., Any] | None:
        """A task by its name, or None."""
        return self._tasks.get(name)  # type: ignore[return-value]  # Task is AnyTask's face

    def get_all_tasks(self) -> list[AnyTask]:
        """Every task, in the order of registration."""
        return list(self._tasks.values())

    def job(self, id: str) -> JobHandle[Any]:
        """The handle of a job by its id, whatever its task. The result comes as it is stored, in JSON's own types.

        Raises:
            NotAttachedError: No app is running.
            JobNotFoundError: The id is not one of this broker's.
        """
        attachment = self.attachment()
        label, key = attachment.locate(id)
        return JobHandle(attachment.queue(label), key)

    def discover(self, package: str) -> list[AnyTask]:
        """Import every module named ``tasks`` within a package, so that its decorators run.

        Other modules are not imported, packages are.

        Args:
            package: An importable package: ``registry.discover("app")``.

        Returns:
            All tasks that are registered then.

        Raises:
            ImportError: The package, or one of the modules, cannot be imported.
        """
        root = importlib.import_module(package)
        for name in _task_modules(root.__name__, list(getattr(root, "__path__", ()))):
            importlib.import_module(name)
        return self.get_all_tasks()

    def queue_configs(self, **options: QueueOptions) -> list[QueueConfig]:
        """One ``QueueConfig`` for every queue that a task or an option names, and for "default".

        Args:
            options: Settings by queue: ``queue_configs(emails={"concurrency": 20})``. See ``QueueConfig``.

        Raises:
            ConfigurationError: A setting that cannot work.
        """
        labels = dict.fromkeys([DEFAULTS["queue"], *self._labels(), *options])
        configs = []
        for label in labels:
            settings = options.get(label, {})
            if unknown := settings.keys() - QueueOptions.__annotations__.keys():
                raise ConfigurationError(
                    f"queue {label!r}: unknown setting {min(unknown)!r}; "
                    f"known: {', '.join(sorted(QueueOptions.__annotations__))}"
                )
            configs.append(QueueConfig(name=label, tasks=self.get_all_tasks(), **settings))
        return configs

    def _labels(self) -> Iterator[str]:
        yield from (task.option("queue") for task in self._tasks.values())
        yield from (schedule.queue for schedule in self._schedules.values())

    def check(
        self, namespace: Mapping[str, Any], hooks: Hooks, *, has_keys: bool = False
    ) -> Iterator[DeclarationError]:
        """Compile every task with what a running app knows, and yield what is wrong with them.

        Args:
            namespace: Names for annotations beside those of each function's module.
            hooks: How the app stores types that msgspec does not know.
            has_keys: Whether the app has keys to encrypt secrets with. Defaults to False.
        """
        for task in self._tasks.values():
            try:
                task.compile(namespace, hooks)
                if task.has_secrets and not has_keys:
                    yield no_keys(task)
            except DeclarationError as error:
                yield error
        for schedule in self._schedules.values():
            try:
                encode_kwargs(self._tasks[schedule.task], schedule.id, schedule.kwargs)
            except DeclarationError as error:
                yield error

    def attach(self, attachment: Attachment) -> AbstractContextManager[None]:
        """Attach the registry to a running app. The plugin does this."""
        return self._attachments.attach(attachment)

    def attachment(self) -> Attachment:
        """The running app that an enqueue from here goes to.

        Raises:
            NotAttachedError: There is none, or nothing tells which.
        """
        return self._attachments.find()

    def __repr__(self) -> str:
        return f"<Registry {self.name!r}: {len(self._tasks)} tasks, {len(self._schedules)} schedules>"

    def _register(self, fn: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
        task = self._make(fn, options)
        self._add(task)
        return task

    def _make(self, fn: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
        refuse_unnameable(fn, allow_local=self._allow_local)
        checked = check_options(options, TaskOptions, subject=f"task {fn.__qualname__!r}")
        task: AnyTask = Task(fn, self, checked)
        if (other := self._tasks.get(task.name)) is not None and not _same_function(other.fn, fn):
            raise DuplicateTaskError(
                f"task {task.name!r} was registered twice ({other.source}, {task.source}); "
                "give one of them an explicit name="
            )
        return task

    def _add(self, task: AnyTask) -> None:
        if task.name in self._tasks:
            # The same source again, by a reload or under a second module name: it replaces, with its schedules.
            self._schedules = {id: one for id, one in self._schedules.items() if one.task != task.name}
        self._tasks[task.name] = task
        if task.on_enqueue:
            self.on_enqueue[task.name] = task.on_enqueue
        else:
            self.on_enqueue.pop(task.name, None)


def _same_function(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions come from one place in one file, whatever their module is called this time."""
    first, second = inspect.unwrap(one), inspect.unwrap(other)
    return (first.__code__.co_filename, first.__qualname__) == (second.__code__.co_filename, second.__qualname__)


def _task_modules(package: str, path: list[str]) -> Iterator[str]:
    for module in pkgutil.iter_modules(path, f"{package}."):
        if module.name.rpartition(".")[2] == "tasks":
            yield module.name
        if module.ispkg:
            inner = importlib.import_module(module.name)
            yield from _task_modules(module.name, list(inner.__path__))
