"""Schedules: when each fires next, how its last firing fared, and changing it while the app runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import NotFoundException, ServiceUnavailableException

from litestar_tasks.dashboard import actions, answers
from litestar_tasks.dashboard.forms import read_number
from litestar_tasks.dashboard.job import links
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.words import duration
from litestar_tasks.exceptions import (
    BrokerError,
    ConfigurationError,
    InvalidScheduleError,
    PayloadError,
    QueueUnavailableError,
    ScheduleNotFoundError,
)
from litestar_tasks.registry import Registry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar_tasks.schedule import Mark, Schedule, ScheduleState

__all__ = ("ACTIONS", "ROUTES", "ScheduleRow", "ScheduleView", "act", "add", "change", "find", "run", "schedules")

ACTIONS: Final[Mapping[str, tuple[Callable[..., Awaitable[object]], str]]] = {
    "pause": (Registry.pause_schedule, "paused"),
    "resume": (Registry.resume_schedule, "resumed"),
    "reset": (Registry.reset_schedule, "reset"),
    "remove": (Registry.remove_schedule, "removed"),
}
"""What is done to a schedule, and what has become of it then."""
_FIELDS: Final = ("cron", "every", "timezone", "kwargs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """A schedule as lists show it."""

    id: str
    task: str
    queue: str
    rhythm: str
    """As a person says it."""
    cron: str
    every: float | None
    """Seconds."""
    timezone: str
    kwargs: str
    misfire: str
    overlap: str
    origin: str
    """"code", or "runtime" for one that was added while the app ran."""
    declared: str
    """The rhythm that the code declares, where it was changed since."""
    changed_by: str
    changed_at: datetime | None
    paused_by: str
    paused_at: datetime | None
    """None where it fires."""
    next_run: datetime | None
    """None while it is paused, or after its end."""
    last_moment: datetime | None
    last_job: str
    """The id of its last job; "" where there is none."""
    last_status: str
    last_skipped: str
    """Why the last firing was left out; "" where it was not."""
    skips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView(ScheduleRow):
    """A schedule with its next runs."""

    next_runs: Sequence[datetime]
    """Five of them, which have to be reckoned one after the other."""


async def schedules(visit: Visit) -> list[ScheduleRow]:
    """Every schedule."""
    async with _asking():
        return [ScheduleRow(**_fields(visit, state)) for state in await visit.registry.schedules()]


async def find(visit: Visit, id: str) -> ScheduleView:
    """A schedule by its id.

    Raises:
        NotFoundException: There is none; names the nearest ones.
    """
    async with _asking():
        state = await visit.registry.schedule_state(id)
    return ScheduleView(**_fields(visit, state), next_runs=list(state.next_runs))


async def change(visit: Visit, id: str, fields: Mapping[str, Any]) -> None:
    """Change when a schedule fires, or with which arguments, until it is reset.

    Args:
        visit: Who wants it.
        id: The schedule.
        fields: Of ``cron``, ``every`` in seconds, ``timezone`` and ``kwargs`` those that change.

    Raises:
        InvalidScheduleError, ConfigurationError, PayloadError: It could not work.
        NotFoundException: There is no such schedule.
    """
    async with _asking():
        await visit.registry.change_schedule(id, **_recurrence(fields), by=actions.who(visit.request))
    actions.log(visit, None, "schedule %r was changed", id)


async def add(visit: Visit, id: str, task: str, fields: Mapping[str, Any]) -> None:
    """Add a schedule, of a registered task, that no code declares."""
    async with _asking():
        await visit.registry.add_schedule(id, task=task, **_recurrence(fields), by=actions.who(visit.request))
    actions.log(visit, None, "schedule %r (task %r) was added", id, task)


async def act(visit: Visit, id: str, action: str) -> None:
    """Do one of ``ACTIONS`` to a schedule.

    Raises:
        NotFoundException: There is no such schedule.
        HTTPException: Status 409: it is declared in code, and is to be removed.
    """
    do, done = ACTIONS[action]
    try:
        async with _asking():
            await do(visit.registry, id, by=actions.who(visit.request))
    except InvalidScheduleError as error:
        raise actions.conflict(visit.redactor.text(str(error))) from error
    actions.log(visit, None, f"schedule %r was {done}", id)


async def run(visit: Visit, id: str) -> str:
    """Enqueue a schedule's job now, besides its firings. Returns the job's id."""
    async with _asking():
        handle = await visit.registry.run_schedule(id, by=actions.who(visit.request))
    actions.log(visit, None, "schedule %r was run as job %r", id, handle.id)
    return handle.id


def _fields(visit: Visit, state: ScheduleState) -> dict[str, Any]:
    """A schedule as plain values."""
    schedule, last = state.schedule, state.last
    declared = _rhythm(state.declared) if state.declared else ""
    return {
        "id": schedule.id,
        "task": schedule.task,
        "queue": schedule.queue,
        "rhythm": _rhythm(schedule),
        "cron": schedule.cron or "",
        "every": schedule.every.total_seconds() if schedule.every else None,
        "timezone": schedule.timezone,
        "kwargs": visit.redactor.shown(schedule.kwargs, 10_000, indent=2) if schedule.kwargs else "{}",
        "misfire": schedule.misfire,
        "overlap": schedule.overlap,
        "origin": state.origin,
        "declared": declared if state.override else "",
        "changed_by": _by(visit, state.override),
        "changed_at": state.override.at if state.override else None,
        "paused_by": _by(visit, state.paused),
        "paused_at": state.paused.at if state.paused else None,
        "next_run": state.next_run,
        "last_moment": last.moment if last else None,
        "last_job": (last.job_id or "") if last else "",
        "last_status": (last.status or "") if last else "",
        "last_skipped": visit.redactor.text(last.skipped or "") if last else "",
        "skips": state.skips,
    }


async def _list(visit: Visit) -> Answer:
    found = await schedules(visit)
    return answers.page(
        "schedules", visit, schedules=found, jobs=dict(links(visit, [one.last_job for one in found])), live=True
    )


async def _page(visit: Visit, id: str) -> Answer:
    return await _show(visit, id)


async def _show(visit: Visit, id: str, *, given: Mapping[str, str] | None = None, error: str = "") -> Answer:
    found = await find(visit, id)
    return answers.page(
        "schedule",
        visit,
        status_code=422 if error else 200,
        schedule=found,
        job=links(visit, [found.last_job])[0][1] if found.last_job else "",
        given=given
        or {
            "cron": found.cron,
            "every": f"{found.every:g}" if found.every else "",
            "timezone": found.timezone,
            "kwargs": found.kwargs,
        },
        error=error,
        live=not error,
    )


async def _act(visit: Visit, id: str, action: str) -> Answer:
    await act(visit, id, action)
    where = ("schedules",) if action == "remove" else ("schedules", id)
    return answers.redirect(visit.place.link(*where), flash=(f"schedule-{ACTIONS[action][1]}",))


async def _run(visit: Visit, id: str) -> Answer:
    job = await run(visit, id)
    address = links(visit, [job])[0][1]
    return answers.redirect(address or visit.place.link("schedules", id), flash=("enqueued",))


async def _change(visit: Visit, id: str) -> Answer:
    given = {name: str(value).strip() for name, value in (await visit.request.form()).items()}
    before = await find(visit, id)
    try:
        fields = _read(given)
        if given.get("kwargs", "").replace("\r\n", "\n") == before.kwargs:
            fields.pop("kwargs", None)  # what is hidden in them stays what it is
        await change(visit, id, fields)
    except (InvalidScheduleError, ConfigurationError, PayloadError) as error:
        return await _show(visit, id, given=given, error=visit.redactor.text(str(error)))
    return answers.redirect(visit.place.link("schedules", id), flash=("schedule-changed",))


async def _form(visit: Visit) -> Answer:
    return _new(visit, {"task": visit.param("task"), "timezone": "UTC", "kwargs": "{}"})


def _new(visit: Visit, given: Mapping[str, str], *, error: str = "") -> Answer:
    tasks = sorted(task.name for task in visit.registry.get_all_tasks())
    return answers.page(
        "schedule_new", visit, status_code=422 if error else 200, tasks=tasks, given=given, error=error, live=False
    )


async def _add(visit: Visit) -> Answer:
    given = {name: str(value).strip() for name, value in (await visit.request.form()).items()}
    id = given.get("id") or given.get("task", "")
    try:
        await add(visit, id, given.get("task", ""), _read(given))
    except (InvalidScheduleError, ConfigurationError, PayloadError) as error:
        return _new(visit, given, error=visit.redactor.text(str(error)))
    return answers.redirect(visit.place.link("schedules", id), flash=("schedule-added",))


def _read(given: Mapping[str, str]) -> dict[str, Any]:
    """What was typed into the form of a schedule; an empty field says nothing."""
    fields: dict[str, Any] = {name: given[name] for name in _FIELDS if given.get(name)}
    if "every" in fields:
        fields["every"] = read_number("every", fields["every"])
    if "kwargs" in fields:
        try:
            fields["kwargs"] = json.loads(fields["kwargs"])
        except ValueError as error:
            raise ConfigurationError(f"the arguments are no JSON: {error}") from error
        if not isinstance(fields["kwargs"], dict):
            raise ConfigurationError('the arguments are no JSON object; write them by name: {"batch_size": 100}')
    return fields


def _recurrence(fields: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := fields.keys() - set(_FIELDS):
        raise ConfigurationError(f"unknown field {min(unknown)!r}; there are {', '.join(_FIELDS)}")
    found = dict(fields)
    if found.get("every") is not None:
        try:
            found["every"] = timedelta(seconds=found["every"])
        except (TypeError, OverflowError) as error:
            raise ConfigurationError(f"every is {found['every']!r}; give a number of seconds") from error
    return found


def _rhythm(schedule: Schedule) -> str:
    text = (
        schedule.cron
        if schedule.cron is not None
        else f"every {duration((schedule.every or timedelta()).total_seconds())}"
    )
    return text if schedule.timezone == "UTC" else f"{text} ({schedule.timezone})"


def _by(visit: Visit, mark: Mark | None) -> str:
    return visit.redactor.text(mark.by or "") if mark else ""


@asynccontextmanager
async def _asking() -> AsyncGenerator[None, None]:
    """Says what went wrong in the words of pages."""
    try:
        yield
    except ScheduleNotFoundError as error:
        raise NotFoundException(str(error)) from error
    except (QueueUnavailableError, BrokerError) as error:
        raise ServiceUnavailableException(
            "The schedules could not be asked for. Is the broker running? The server's log says more."
        ) from error


ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/schedules", _list),
    route("POST", "/schedules", _add),
    route("GET", "/schedules/new", _form),
    *(route("POST", f"/schedules/{{id}}/{action}", partial(_act, action=action)) for action in ACTIONS),
    route("POST", "/schedules/{id}/jobs", _run),
    route("GET", "/schedules/{id}", _page),
    route("POST", "/schedules/{id}", _change),
)
