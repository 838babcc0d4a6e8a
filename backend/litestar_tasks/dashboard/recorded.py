"""The history: jobs that were recorded in the app's own database, also those that the broker has forgotten."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import HTTPException, NotFoundException, ValidationException

from litestar_tasks.dashboard import actions, answers
from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.explained import Explained
from litestar_tasks.dashboard.forms import Field, fields_of, read_fields, secret_arguments
from litestar_tasks.dashboard.recorded_search import (
    STATUSES,
    RecordedListing,
    RecordedSearch,
    find_recorded,
    read_recorded_search,
)
from litestar_tasks.dashboard.recorded_view import Gap, RecordedJob, gap_view, life_of, recorded_job
from litestar_tasks.dashboard.redaction import printable
from litestar_tasks.dashboard.turns import read_turns
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.exceptions import JobNotFoundError, PayloadError
from litestar_tasks.job import ENDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar_tasks.handle import JobHandle
    from litestar_tasks.outbox.history import HistoryJob
    from litestar_tasks.task import AnyTask

__all__ = ("ROUTES", "gaps", "gone", "life", "rerun", "view")

_PATIENCE: Final = 1.0
"""Seconds that a page of the history waits for the broker: it does not need it."""


async def life(visit: Visit, id: str) -> HistoryJob:
    """What is recorded of a job: the life that the address names, or else the last one.

    Raises:
        HTTPException: Nothing is recorded of it, or the database did not answer.
    """
    return (await _lives(visit, id))[0]


def view(visit: Visit, job: HistoryJob) -> RecordedJob:
    """A recorded job with all that the history holds of it."""
    return recorded_job(job, visit.redactor, secret=secret_arguments(visit.registry.find_task(job.task)))


async def gaps(visit: Visit) -> list[Gap]:
    """What could not be recorded, the last first."""
    async with visit.archive.asking() as history:
        found = await history.gaps()
    return [gap_view(gap, visit.redactor) for gap in found]


async def rerun(visit: Visit, job: HistoryJob, arguments: Mapping[str, Any]) -> JobHandle[Any]:
    """Enqueue what a recorded job did as a new job that names it as its parent.

    Args:
        visit: Who wants it.
        job: The recorded job.
        arguments: Arguments that are to be others.

    Raises:
        PayloadError: The arguments do not fit, or some are missing that the history does not hold.
        HTTPException: Status 409: the job has not ended, or its task is gone; 503: the database or the broker is away.
    """
    async with visit.archive.asking() as history:
        handle = await history.rerun(job, **arguments)
    label, key = visit.locate(handle.id) or ("", handle.id)
    actions.log(
        visit, visit.queues.get(label), "job %r (task %r) was run again from the history as %r (queue %r)",
        job.id, job.task, key, label,
    )  # fmt: skip
    return handle


async def gone(visit: Visit, id: str, error: NotFoundException) -> HTTPException:
    """What to say of a job that the broker does not know: where it is recorded, if it is."""
    if not visit.has_history:
        return error
    try:
        async with visit.archive.asking() as history:
            await history.job(id)
    except HTTPException:
        return error
    return Explained(
        error.detail,
        status_code=404,
        title="The broker has forgotten this job",
        hint="The history has not: it says what became of it, and runs it again.",
        link=("See it in the history", visit.place.link("history", "jobs", id)),
    )


async def _list(visit: Visit) -> Answer:
    search, turns = read_recorded_search(visit.request.query_params), read_turns(visit.request.query_params)
    if search.text and not turns.cursor and (found := await _by_id(visit, search.text)):
        return answers.redirect(visit.place.link("history", "jobs", found))
    error = ""
    try:
        listing = await find_recorded(visit, search, cursor=turns.cursor)
    except ValidationException as wrong:
        error, listing = wrong.detail, RecordedListing((), "")
    return answers.page(
        "history",
        visit,
        status_code=400 if error else 200,
        search=search,
        listing=listing,
        keys={row.id: place[1] if (place := visit.locate(row.id)) else row.id for row in listing.rows},
        turns=turns,
        previous=turns.previous(search),
        following=turns.following(search, listing.cursor),
        gaps=_within(search, await gaps(visit)) if not error else [],
        error=error,
        statuses=STATUSES,
        queues=list(visit.queues),
        tasks=sorted(task.name for task in visit.registry.get_all_tasks()),
        live=False,
    )


async def _by_id(visit: Visit, text: str) -> str:
    """The id of the recorded job that a text is the id of; "" where there is none."""
    async with visit.archive.asking() as history:
        return text if await history.lives(text, limit=1) else ""


def _within(search: RecordedSearch, found: list[Gap]) -> list[Gap]:
    since, until = search.moments
    return [gap for gap in found if (not since or gap.until >= since) and (not until or gap.since < until)]


async def _page(visit: Visit, key: str) -> Answer:
    shown, *others = await _lives(visit, key)
    place, status = await _standing(visit, key)
    task = visit.registry.find_task(shown.task)
    return answers.page(
        "recorded",
        visit,
        job=view(visit, shown),
        key=place[1] if place else key,
        task=task,
        lives=[view(visit, one) for one in sorted([shown, *others], key=life_of, reverse=True)] if others else [],
        live_at=visit.place.link("queues", place[0], "jobs", place[1]) if place and status else "",
        live_status=status,
        # What has not ended is the broker's, as long as that has it.
        may_rerun=visit.may_act and task is not None and (status is None or status in ENDS),
        life=visit.param("life"),
        live=False,
    )


async def _standing(visit: Visit, id: str) -> tuple[tuple[str, str] | None, str | None]:
    """Where the broker has a job, and how it stands there; None where it has not, or does not answer."""
    status = None
    if (place := visit.locate(id)) is not None:
        queue = visit.queue(place[0])
        with suppress(HTTPException, TimeoutError):
            async with asyncio.timeout(_PATIENCE), asking(queue):
                status = await queue.status(place[1])
    return place, status


async def _form(visit: Visit, key: str) -> Answer:
    job = await life(visit, key)
    task = _task(visit, job)
    return _show_form(visit, job, fields_of(task, visit.redactor, stored=_kept(job), withheld=job.withheld))


async def _rerun(visit: Visit, key: str) -> Answer:
    job = await life(visit, key)
    task = _task(visit, job)
    form = await visit.request.form()
    given = {name.removeprefix("arg."): str(value) for name, value in form.items() if name.startswith("arg.")}
    try:
        if "edited" in form:  # what was typed takes the place of all arguments
            arguments = _typed(visit, task, job, given)
            handle = await rerun(visit, replace(job, arguments={}, withheld=()), arguments)
        else:
            handle = await rerun(visit, job, {})
    except PayloadError as error:
        fields = fields_of(
            task, visit.redactor, stored=_kept(job), given=given if "edited" in form else None, error=error,
            withheld=job.withheld,
        )  # fmt: skip
        return _show_form(visit, job, fields, error=visit.redactor.text(str(error)))
    label, own = visit.locate(handle.id) or ("", handle.id)
    return answers.redirect(
        visit.place.link("queues", label, "jobs", own), flash=("known" if handle.deduplicated else "enqueued",)
    )


def _typed(visit: Visit, task: AnyTask, job: HistoryJob, given: Mapping[str, str]) -> Mapping[str, Any]:
    """The arguments that were typed.

    Raises:
        PayloadError: One is missing that the history does not hold, or a text is no JSON where that is asked for.
    """
    for name in job.withheld:
        if name in given and not given[name]:
            raise PayloadError(task.name, "was secret or too long for the history, so give it again", path=name)
    return read_fields(task, given, visit.redactor, stored=_kept(job))


def _show_form(visit: Visit, job: HistoryJob, fields: Sequence[Field], *, error: str = "") -> Answer:
    return answers.page(
        "recorded_rerun", visit, status_code=422 if error else 200, job=view(visit, job), fields=fields, error=error,
        life=visit.param("life"), live=False,
    )  # fmt: skip


def _kept(job: HistoryJob) -> Mapping[str, Any]:
    """The arguments that the history holds as they were."""
    return {name: value for name, value in job.arguments.items() if name not in job.withheld}


def _task(visit: Visit, job: HistoryJob) -> AnyTask:
    task = visit.registry.find_task(job.task)
    if task is None:
        raise actions.conflict(f"Task {job.task!r} is not registered here, so nothing can run this job again.")
    return task


async def _lives(visit: Visit, id: str) -> list[HistoryJob]:
    """What is recorded of a job, the life that is asked for first, then the others."""
    wanted = visit.param("life")
    async with visit.archive.asking() as history:
        found = await history.lives(id)
        if not found:
            raise JobNotFoundError(id)
    chosen = [one for one in found if str(life_of(one)) == wanted] if wanted else found[:1]
    if not chosen:
        raise NotFoundException(f"Nothing is recorded any more of that life of job {printable(id)!r}.")
    return [*chosen, *(one for one in found if one not in chosen)]


ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/history", _list),
    route("GET", "/history/jobs/{key}/rerun", _form),
    route("POST", "/history/jobs/{key}/rerun", _rerun),
    route("GET", "/history/jobs/{key}", _page),
)
