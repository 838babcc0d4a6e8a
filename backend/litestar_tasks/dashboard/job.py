"""One job: what is known of it, and what can be done to it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import NotFoundException

from litestar_tasks.dashboard import actions, answers, recorded
from litestar_tasks.dashboard.asking import asking, find_job
from litestar_tasks.dashboard.forms import fields_of, read_fields, secret_arguments
from litestar_tasks.dashboard.job_view import JobView, job_view
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.exceptions import PayloadError
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import ENDS
from litestar_tasks.queues.following import successors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from saq.job import Job

    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.task import AnyTask

__all__ = ("ACTIONS", "ROUTES", "copy", "enqueued", "links", "view")

ACTIONS: Final[Mapping[str, Callable[[Visit, TaskQueue, str], Awaitable[str]]]] = {
    "abort": actions.abort,
    "retry": actions.retry,
    "delete": actions.delete,
}


async def view(visit: Visit, queue: TaskQueue, key: str) -> JobView:
    """A job with all that is kept of it.

    Raises:
        NotFoundException: There is none under this key.
    """
    record = await find_job(queue, key)
    async with asking(queue):
        # The queue knows better than the record when a job is due.
        status = await queue.status(record.key)
    secret = secret_arguments(visit.registry.find_task(record.function))
    children = _children(visit, record) if status in ENDS else []
    return job_view(record, visit.redactor, status=status or "complete", children=children, secret=secret)


async def copy(visit: Visit, queue: TaskQueue, key: str, payload: Mapping[str, Any]) -> JobHandle[Any]:
    """Enqueue a job's task anew with other arguments, as a new job that names it as its parent.

    Raises:
        PayloadError: They do not fit the signature.
        HTTPException: Status 409: the task is not registered here.
    """
    record = await find_job(queue, key)
    task = _task(visit, record)
    spec = task.spec((), payload, _options(record))
    spec.meta = {**spec.meta, PARENT: record.id}
    async with asking(queue):
        submission = await queue.submit(spec)
    actions.log(
        visit, queue, "job %r (task %r, queue %r) was enqueued anew as %r with other arguments",
        record.key, record.function, queue.label, submission.job.key,
    )  # fmt: skip
    return JobHandle(queue, submission.job.key, deduplicated=submission.deduplicated)


def links(visit: Visit, ids: list[str]) -> list[tuple[str, str]]:
    """Where jobs are found: their ids, each with its address, or "" for one of elsewhere."""
    return [(one, _address(visit, one)) for one in ids]


def enqueued(visit: Visit, handle: JobHandle[Any]) -> Answer:
    """Off to the job that was enqueued, or that stands for it."""
    return answers.redirect(_address(visit, handle.id), flash=("known" if handle.deduplicated else "enqueued",))


async def _page(visit: Visit, label: str, key: str) -> Answer:
    queue = visit.queue(label)
    try:
        found = await view(visit, queue, key)
    except NotFoundException as error:
        raise await recorded.gone(visit, key if visit.locate(key) else queue.job_id(key), error) from error
    task = visit.registry.find_task(found.function)
    return answers.page(
        "job",
        visit,
        job=found,
        task=task,
        parents=links(visit, [found.parent] if found.parent else []),
        children=links(visit, list(found.children)),
        recorded_at=visit.place.link("history", "jobs", found.id) if visit.has_history else "",
        live=True,
    )


async def _act(visit: Visit, label: str, key: str, action: str) -> Answer:
    key = await ACTIONS[action](visit, visit.queue(label), key)
    if action == "delete":
        return answers.redirect(visit.place.link("jobs"), flash=("deleted", 1, 0))
    return answers.redirect(visit.place.link("queues", label, "jobs", key), flash=(f"job-{actions.DONE[action]}",))


async def _form(visit: Visit, label: str, key: str) -> Answer:
    record = await find_job(visit.queue(label), key)
    task = _task(visit, record)
    fields = fields_of(task, visit.redactor, stored=record.kwargs or {})
    return answers.page("job_copy", visit, record=record, queue=label, task=task, fields=fields, error="", live=False)


async def _copy(visit: Visit, label: str, key: str) -> Answer:
    queue = visit.queue(label)
    record = await find_job(queue, key)
    task = _task(visit, record)
    form = await visit.request.form()
    given = {name.removeprefix("arg."): str(value) for name, value in form.items() if name.startswith("arg.")}
    stored = record.kwargs or {}
    try:
        handle = await copy(visit, queue, record.key, read_fields(task, given, visit.redactor, stored=stored))
    except PayloadError as error:
        fields = fields_of(task, visit.redactor, stored=stored, given=given, error=error)
        return answers.page(
            "job_copy", visit, status_code=422, record=record, queue=label, task=task, fields=fields,
            error=visit.redactor.text(str(error)), live=False,
        )  # fmt: skip
    return enqueued(visit, handle)


def _address(visit: Visit, id: str) -> str:
    """Where a job is found by its id; "" for one of elsewhere."""
    if (found := visit.locate(id)) is None:
        return ""
    label, key = found
    return visit.place.link("queues", label, "jobs", key)


def _children(visit: Visit, record: Job) -> list[str]:
    """The ids of a job's follow-ups; of a record that somebody else wrote, none."""
    try:
        return [
            visit.queues[label].job_id(spec.key or "") for label, spec in successors(record) if label in visit.queues
        ]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _task(visit: Visit, record: Job) -> AnyTask:
    task = visit.registry.find_task(record.function)
    if task is None:
        raise actions.conflict(
            f"Task {record.function!r} is not registered here, so its arguments cannot be checked. Retry it as it is."
        )
    return task


def _options(record: Job) -> dict[str, Any]:
    """Of the options of a call those that a new one shares."""
    tag = (record.meta or {}).get("tag")
    return {"priority": record.priority, **({"tag": tag} if isinstance(tag, str) else {})}


ROUTES: Final[tuple[Route, ...]] = (
    *(route("POST", f"/queues/{{label}}/jobs/{{key}}/{action}", partial(_act, action=action)) for action in ACTIONS),
    route("GET", "/queues/{label}/jobs/{key}/copies", _form),
    route("POST", "/queues/{label}/jobs/{key}/copies", _copy),
    route("GET", "/queues/{label}/jobs/{key}", _page),
)
