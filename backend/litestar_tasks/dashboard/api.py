"""The same as the pages, as JSON: for scripts, other front ends and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar.exceptions import HTTPException, ValidationException

from litestar_tasks.dashboard import actions, answers, job, recorded, schedules, stats, tasks
from litestar_tasks.dashboard.api_types import (
    BulkBody,
    BulkResult,
    CopyBody,
    EnqueueBody,
    Health,
    Jobs,
    Key,
    NewScheduleBody,
    QueueView,
    RecordedJobs,
    RerunBody,
    ScheduleBody,
    Stats,
    TaskDetail,
)
from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.jobs import act_on_all, act_on_some, allowed
from litestar_tasks.dashboard.recorded_search import find_recorded, read_recorded_search
from litestar_tasks.dashboard.search import find, read_search
from litestar_tasks.dashboard.stats import SPANS
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.watch import Look
from litestar_tasks.dashboard.workers import processes
from litestar_tasks.exceptions import ConfigurationError, InvalidScheduleError, PayloadError

if TYPE_CHECKING:
    from litestar_tasks.task import AnyTask

__all__ = ("ROUTES",)


async def _queues(visit: Visit) -> Answer:
    for queue in visit.queues.values():
        visit.watch.forget(queue)  # a script that has just enqueued wants to see it
    looks = await visit.watch.looks(visit.queues.values())
    return answers.json({"queues": [_queue_view(visit, look) for look in looks]})


async def _queue(visit: Visit, label: str) -> Answer:
    visit.watch.forget(visit.queue(label))
    return answers.json({"queue": _queue_view(visit, await visit.watch.look(visit.queue(label)))})


async def _queue_action(visit: Visit, label: str, action: str) -> Answer:
    queue = visit.queue(label)
    if action == "purge":
        return answers.json({"purged": await actions.purge(visit, queue)})
    await (actions.pause if action == "pause" else actions.resume)(visit, queue)
    return await _queue(visit, label)


async def _jobs(visit: Visit) -> Answer:
    search = read_search(visit.request.query_params)
    listing = await find(visit, search, cursor=visit.param("cursor"), limit=_limit(visit))
    return answers.json(Jobs(jobs=listing.rows, cursor=listing.cursor))


async def _bulk(visit: Visit, action: str) -> Answer:
    body = await _body(visit, BulkBody)
    if (body.search is None) == (not body.jobs):
        raise ValidationException("Give either jobs or a search.")
    if body.search is None:
        chosen = [(visit.queue(one.queue), one.key) for one in body.jobs]
        done, skipped = await act_on_some(visit, allowed(action, None), chosen)
        return answers.json(BulkResult(done=done, skipped=skipped))
    if not body.search.get("state"):
        raise ValidationException('The search names no state; give one such as {"state": "failed"}.')
    search = read_search(body.search)
    step = await act_on_all(visit, allowed(action, search.state), search, body.places)
    return answers.json(BulkResult(done=step.done, skipped=step.skipped, places=step.places))


async def _job(visit: Visit, label: str, key: str) -> Answer:
    return answers.json({"job": await job.view(visit, visit.queue(label), key)})


async def _job_action(visit: Visit, label: str, key: str, action: str) -> Answer:
    key = await job.ACTIONS[action](visit, visit.queue(label), key)
    return answers.json(Key(key=key, queue=label), status_code=202)


async def _copy(visit: Visit, label: str, key: str) -> Answer:
    body = await _body(visit, CopyBody)
    with _refusing(visit):
        handle = await job.copy(visit, visit.queue(label), key, body.kwargs)
    return answers.json(_key(visit, handle.id, deduplicated=handle.deduplicated), status_code=201)


async def _tasks(visit: Visit) -> Answer:
    declared = visit.registry.get_schedules()
    found = [tasks.task_view(visit, task, declared) for task in visit.registry.get_all_tasks()]
    return answers.json({"tasks": found})


async def _task(visit: Visit, name: str) -> Answer:
    task = tasks.find_task(visit, name)
    past = await visit.watch.past(visit.queues.values(), "day", whole=True)
    tally = stats.total((one for found in past.values() for one in found.slices), task=name)
    view = tasks.task_view(visit, task, visit.registry.get_schedules())
    detail = TaskDetail(
        **{one: getattr(view, one) for one in tasks.TaskView.__dataclass_fields__},
        arguments=_schema(task),
        complete=tally.complete,
        failed=tally.failed,
        retried=tally.retried,
        aborted=tally.aborted,
    )
    return answers.json({"task": detail})


async def _enqueue(visit: Visit, name: str) -> Answer:
    task, body = tasks.find_task(visit, name), await _body(visit, EnqueueBody)
    options = dict(body.options)
    with _refusing(visit):
        if isinstance(options.get("run_at"), str):
            options["run_at"] = datetime.fromisoformat(options["run_at"])
        handle = await tasks.enqueue(visit, task, body.kwargs, options)
    return answers.json(_key(visit, handle.id, deduplicated=handle.deduplicated), status_code=201)


async def _schedules(visit: Visit) -> Answer:
    return answers.json({"schedules": await schedules.schedules(visit)})


async def _schedule(visit: Visit, id: str) -> Answer:
    return answers.json({"schedule": await schedules.find(visit, id)})


async def _schedule_action(visit: Visit, id: str, action: str) -> Answer:
    await schedules.act(visit, id, action)
    return await _schedule(visit, id)


async def _change_schedule(visit: Visit, id: str) -> Answer:
    body = await _body(visit, ScheduleBody)
    with _refusing(visit):
        await schedules.change(visit, id, body.fields())
    return await _schedule(visit, id)


async def _add_schedule(visit: Visit) -> Answer:
    body = await _body(visit, NewScheduleBody)
    with _refusing(visit):
        await schedules.add(visit, body.id, body.task, body.fields())
    return answers.json({"schedule": await schedules.find(visit, body.id)}, status_code=201)


async def _remove_schedule(visit: Visit, id: str) -> Answer:
    await schedules.act(visit, id, "remove")
    return answers.json({"removed": id})


async def _run_schedule(visit: Visit, id: str) -> Answer:
    return answers.json(_key(visit, await schedules.run(visit, id)), status_code=201)


async def _stats(visit: Visit) -> Answer:
    span, label, task = visit.param("range", "hour"), visit.param("queue"), visit.param("task") or None
    if span not in SPANS:
        raise ValidationException(f"range is {span!r}; give one of {', '.join(SPANS)}.")
    queues = [visit.queue(label)] if label else list(visit.queues.values())
    past = await visit.watch.past(queues, span, whole=True)
    slices = [one for found in past.values() for one in found.slices]
    return answers.json({"stats": [_bucket_view(bucket) for bucket in stats.buckets(slices, span, task=task)]})


async def _recorded_jobs(visit: Visit) -> Answer:
    search = read_recorded_search(visit.request.query_params)
    listing = await find_recorded(visit, search, cursor=visit.param("cursor"), limit=_limit(visit))
    return answers.json(RecordedJobs(jobs=listing.rows, cursor=listing.cursor))


async def _recorded_job(visit: Visit, key: str) -> Answer:
    return answers.json({"job": recorded.view(visit, await recorded.life(visit, key))})


async def _rerun(visit: Visit, key: str) -> Answer:
    body = await _body(visit, RerunBody)
    with _refusing(visit):
        handle = await recorded.rerun(visit, await recorded.life(visit, key), body.kwargs)
    return answers.json(_key(visit, handle.id, deduplicated=handle.deduplicated), status_code=201)


async def _gaps(visit: Visit) -> Answer:
    return answers.json({"gaps": await recorded.gaps(visit)})


async def _workers(visit: Visit) -> Answer:
    for queue in visit.queues.values():
        visit.watch.forget(queue)
    looks = await visit.watch.looks(visit.queues.values())
    return answers.json({"workers": await processes(visit, looks, jobs=True)})


async def _health(visit: Visit) -> Answer:
    states = dict(
        zip(visit.queues, await asyncio.gather(*(_state(visit, label) for label in visit.queues)), strict=True)
    )
    status = next((one for one in ("broker unreachable", "no workers") if one in states.values()), "ok")
    return answers.json(Health(status=status, queues=states), status_code=200 if status == "ok" else 503)


async def _state(visit: Visit, label: str) -> str:
    queue = visit.queue(label)
    try:
        async with asking(queue):
            found = await queue.workers()
    except HTTPException:
        return "broker unreachable"
    return "ok" if any(not worker.lost for worker in found) else "no workers"


def _key(visit: Visit, id: str, *, deduplicated: bool = False) -> Key:
    label, key = visit.locate(id) or ("", "")
    return Key(key=key, queue=label, id=id, deduplicated=deduplicated)


def _queue_view(visit: Visit, look: Look) -> QueueView:
    return QueueView(
        name=look.label,
        active=look.counts["active"],
        queued=look.counts["queued"],
        scheduled=look.counts["scheduled"],
        counts=look.counts,
        counted_up_to=look.cap,
        paused=look.pause is not None,
        paused_by=visit.redactor.text(look.pause.by) if look.pause else "",
        oldest=look.oldest,
        workers=len(look.alive),
        capabilities=sorted(visit.queue(look.label).capabilities),
    )


def _bucket_view(bucket: stats.Bucket) -> Stats:
    tally = bucket.tally
    return Stats(
        start=bucket.start,
        end=bucket.end,
        complete=tally.complete,
        failed=tally.failed,
        retried=tally.retried,
        aborted=tally.aborted,
        wait_p50=tally.waiting(0.5),
        wait_p95=tally.waiting(0.95),
        run_p50=tally.running(0.5),
        run_p95=tally.running(0.95),
    )


def _limit(visit: Visit) -> int:
    text = visit.param("limit", "50")
    if not text.isdecimal() or not 1 <= int(text) <= 500:
        raise ValidationException(f"limit is {text!r}; give a whole number from 1 to 500.")
    return int(text)


def _schema(task: AnyTask) -> dict[str, Any]:
    return task.payload.schema()


@contextmanager
def _refusing(visit: Visit) -> Generator[None, None, None]:
    """What does not fit is the request's fault."""
    try:
        yield
    except (PayloadError, ConfigurationError, InvalidScheduleError, ValueError) as error:
        raise ValidationException(visit.redactor.text(str(error))) from error


async def _body(visit: Visit, kind: type[Any]) -> Any:
    """What a request carries.

    Raises:
        ValidationException: It is no JSON of that form.
    """
    try:
        return msgspec.json.decode(await visit.request.body() or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationException(f"The body cannot be read: {error}") from error


_JOB: Final = "/api/queues/{label}/jobs/{key}"
ROUTES: Final[tuple[Route, ...]] = (
    route("GET", "/api/queues", _queues),
    route("GET", "/api/queues/{label}", _queue),
    *(
        route("POST", f"/api/queues/{{label}}/{action}", partial(_queue_action, action=action))
        for action in ("pause", "resume", "purge")
    ),
    route("GET", "/api/jobs", _jobs),
    route("POST", "/api/jobs/{action}", _bulk),
    *(route("POST", f"{_JOB}/{action}", partial(_job_action, action=action)) for action in ("retry", "abort")),
    route("POST", f"{_JOB}/copies", _copy),
    route("GET", _JOB, _job),
    route("DELETE", _JOB, partial(_job_action, action="delete")),
    route("GET", "/api/tasks", _tasks),
    route("GET", "/api/tasks/{name}", _task),
    route("POST", "/api/tasks/{name}/jobs", _enqueue),
    route("GET", "/api/schedules", _schedules),
    route("POST", "/api/schedules", _add_schedule),
    *(
        route("POST", f"/api/schedules/{{id}}/{action}", partial(_schedule_action, action=action))
        for action in ("pause", "resume", "reset")
    ),
    route("POST", "/api/schedules/{id}/jobs", _run_schedule),
    route("GET", "/api/schedules/{id}", _schedule),
    route("PATCH", "/api/schedules/{id}", _change_schedule),
    route("DELETE", "/api/schedules/{id}", _remove_schedule),
    route("GET", "/api/stats", _stats),
    route("GET", "/api/workers", _workers),
    route("GET", "/api/history/jobs", _recorded_jobs),
    route("GET", "/api/history/gaps", _gaps),
    route("POST", "/api/history/jobs/{key}/rerun", _rerun),
    route("GET", "/api/history/jobs/{key}", _recorded_job),
    route("GET", "/health", _health),
)
