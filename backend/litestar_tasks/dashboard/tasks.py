"""Tasks: what is registered, how each fares, and a form that enqueues it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import NotFoundException

from litestar_tasks.dashboard import actions, answers, charts
from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.forms import fields_of, read_fields, read_number
from litestar_tasks.dashboard.job import enqueued
from litestar_tasks.dashboard.search import Search, find
from litestar_tasks.dashboard.stats import Tally
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.words import duration
from litestar_tasks.exceptions import ConfigurationError, PayloadError, UnknownTaskError
from litestar_tasks.handle import JobHandle
from litestar_tasks.option_checks import check_options
from litestar_tasks.options import DEFAULTS, EnqueueOptions

if TYPE_CHECKING:
    from litestar_tasks.schedule import Schedule
    from litestar_tasks.task import AnyTask

__all__ = ("ROUTES", "TaskView", "enqueue", "find_task", "task_view")

_OPTIONS: Final = (
    "queue", "timeout", "max_attempts", "priority", "ttl", "failed_ttl", "expires", "at_most_once", "max_losses", "tag",
)  # fmt: skip
_DURATIONS: Final = ("timeout", "ttl", "failed_ttl", "expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A registered task."""

    name: str
    summary: str
    """The first line of its docstring."""
    description: str
    source: str
    signature: str
    """Its payload: what an enqueue takes."""
    queue: str
    options: Mapping[str, str]
    """As they hold for a call that gives none, in words."""
    chosen: frozenset[str]
    """Those that differ from the built-in defaults."""
    schedules: list[str]
    """The ids of its schedules."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A registered task in a list."""

    name: str
    summary: str
    queue: str
    schedules: Sequence[str]


def task_view(visit: Visit, task: AnyTask, schedules: list[Schedule]) -> TaskView:
    """A registered task."""
    text = inspect.getdoc(task.fn) or ""
    payload = {one.name for one in task.parameters if one.kind.value in ("payload", "unresolved")}
    parameters = [one for one in inspect.signature(task.fn).parameters.values() if one.name in payload]
    return TaskView(
        name=task.name,
        summary=_summary(task),
        description=text,
        source=task.source,
        signature=visit.redactor.text(", ".join(map(_written, parameters))),
        queue=task.option("queue"),
        options={name: _in_words(name, task.option(name)) for name in _OPTIONS},
        chosen=frozenset(name for name in _OPTIONS if task.option(name) != DEFAULTS[name]),
        schedules=[one.id for one in schedules if one.task == task.name],
    )


def find_task(visit: Visit, name: str) -> AnyTask:
    """A task by its name.

    Raises:
        NotFoundException: There is none; names the nearest ones.
    """
    try:
        return visit.registry.get_task(name)
    except UnknownTaskError as error:
        raise NotFoundException(str(error)) from error


async def enqueue(
    visit: Visit, task: AnyTask, payload: Mapping[str, Any], options: Mapping[str, Any]
) -> JobHandle[Any]:
    """Enqueue a call, checked like every other.

    Raises:
        PayloadError: The arguments do not fit the signature.
        ConfigurationError: An option cannot work.
    """
    checked = check_options(options, EnqueueOptions, subject=f"task {task.name!r}")
    spec = task.spec((), payload, checked)
    queue = visit.queue(task.option("queue", checked))
    async with asking(queue):
        submission = await queue.submit(spec)
    actions.log(visit, queue, "task %r was enqueued as job %r (queue %r)", task.name, submission.job.key, queue.label)
    return JobHandle(queue, submission.job.key, deduplicated=submission.deduplicated)


async def _list(visit: Visit) -> Answer:
    tallies = await visit.watch.tasks(visit.queues.values())
    wanted = visit.param("q").casefold()
    schedules = _schedules_by_task(visit.registry.get_schedules())
    known = visit.registry.get_all_tasks()
    rows = [
        TaskRow(task.name, _summary(task), task.option("queue"), schedules.get(task.name, ()))
        for task in sorted(known, key=lambda task: task.name)
        if wanted in task.name.casefold() or wanted in task.option("queue")
    ]
    return answers.page(
        "tasks", visit, tasks=rows, tallies=tallies, nothing=Tally(), wanted=visit.param("q"), live=True,
        total=len(known), reading=visit.watch.behind(),
    )  # fmt: skip


async def _page(visit: Visit, name: str) -> Answer:
    return await _show(visit, find_task(visit, name))


async def _show(
    visit: Visit,
    task: AnyTask,
    *,
    given: Mapping[str, str] | None = None,
    error: PayloadError | ConfigurationError | None = None,
) -> Answer:
    past = await visit.watch.past(visit.queues.values(), visit.span)
    failed = await find(visit, Search("failed", task=task.name), limit=5)
    wrong = error if isinstance(error, PayloadError) else None
    return answers.page(
        "task",
        visit,
        status_code=422 if error else 200,
        task=task_view(visit, task, visit.registry.get_schedules()),
        **charts.figures(past.values(), visit.span, task=task.name),
        fields=fields_of(task, visit.redactor, given=given, error=wrong),
        given=given or {},
        error=visit.redactor.text(str(error)) if error else "",
        failed=failed,
        queues=list(visit.queues),
        live=True,
    )


async def _enqueue(visit: Visit, name: str) -> Answer:
    task = find_task(visit, name)
    form = await visit.request.form()
    given = {name: str(value) for name, value in form.items()}
    arguments = {name.removeprefix("arg."): value for name, value in given.items() if name.startswith("arg.")}
    try:
        options: dict[str, Any] = {}
        if text := given.get("delay", "").strip():
            options["delay"] = read_number("delay", text)
        if text := given.get("priority", "").strip():
            options["priority"] = int(read_number("priority", text))
        for option in ("queue", "key", "tag"):
            if text := given.get(option, "").strip():
                options[option] = text
        handle = await enqueue(visit, task, read_fields(task, arguments, visit.redactor), options)
    except (PayloadError, ConfigurationError) as error:
        return await _show(visit, task, given={**given, **arguments}, error=error)
    return enqueued(visit, handle)


def _summary(task: AnyTask) -> str:
    return (inspect.getdoc(task.fn) or "").partition("\n")[0]


def _schedules_by_task(schedules: Sequence[Schedule]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in schedules:
        found.setdefault(one.task, []).append(one.id)
    return found


def _written(parameter: inspect.Parameter) -> str:
    """A parameter as its source has it, whether its annotation is a text or not."""
    spelled = parameter.annotation if isinstance(parameter.annotation, str) else None
    text = str(parameter)
    return text.replace(repr(spelled), spelled, 1) if spelled else text


def _in_words(name: str, value: Any) -> str:
    if value is None:
        return "none" if name in ("expires", "tag", "timeout") else "for ever"
    if isinstance(value, datetime):
        return value.isoformat()
    if name in _DURATIONS:
        return duration(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/tasks", _list),
    route("POST", "/tasks/{name}/jobs", _enqueue),
    route("GET", "/tasks/{name}", _page),
)
