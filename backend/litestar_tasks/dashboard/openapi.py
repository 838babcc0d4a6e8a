"""The JSON API in the app's OpenAPI schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType

from litestar_tasks.dashboard import api_types as api
from litestar_tasks.dashboard.job_view import JobView
from litestar_tasks.dashboard.recorded_view import Gap, RecordedJob
from litestar_tasks.dashboard.schedules import ScheduleRow, ScheduleView
from litestar_tasks.dashboard.tasks import TaskView
from litestar_tasks.dashboard.workers import ProcessView

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.config import DashboardConfig

__all__ = ("ENDPOINTS", "OF_HISTORY", "describe")

_PREFIX: Final = "Tasks"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_SEARCH: Final = ("state", "queue", "task", "tag", "q", "since", "until", "order", "cursor", "limit")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an address takes and answers."""

    method: str
    path: str
    summary: str
    answer: type[Any]
    inside: str = ""
    """The name that the answer stands under; "" where it is the whole."""
    many: bool = False
    status: int = 200
    body: type[Any] | None = None
    query: tuple[str, ...] = ()


_JOB: Final = "/api/queues/{label}/jobs/{key}"
ENDPOINTS: Final = (
    Endpoint("GET", "/api/queues", "How the queues stand", api.QueueView, "queues", many=True),
    Endpoint("GET", "/api/queues/{label}", "How a queue stands", api.QueueView, "queue"),
    Endpoint("POST", "/api/queues/{label}/pause", "Start nothing more of a queue", api.QueueView, "queue"),
    Endpoint("POST", "/api/queues/{label}/resume", "Work on a queue again", api.QueueView, "queue"),
    Endpoint("POST", "/api/queues/{label}/purge", "Forget all jobs that wait in a queue", int, "purged"),
    Endpoint("GET", "/api/jobs", "Jobs by state, and by what narrows it", api.Jobs, query=_SEARCH),
    *(
        Endpoint(
            "POST", f"/api/jobs/{action}", f"{action.capitalize()} many jobs", api.BulkResult, body=api.BulkBody
        )
        for action in ("retry", "abort", "delete")
    ),
    Endpoint("GET", _JOB, "A job with all that is kept of it", JobView, "job"),
    Endpoint("DELETE", _JOB, "Forget a job that has ended", api.Key, status=202),
    Endpoint("POST", f"{_JOB}/retry", "Run a job again that has ended", api.Key, status=202),
    Endpoint("POST", f"{_JOB}/abort", "End a job that waits or runs", api.Key, status=202),
    Endpoint("POST", f"{_JOB}/copies", "Enqueue it anew with other arguments", api.Key, status=201, body=api.CopyBody),
    Endpoint("GET", "/api/tasks", "The registered tasks", TaskView, "tasks", many=True),
    Endpoint("GET", "/api/tasks/{name}", "A task, and the schema of its arguments", api.TaskDetail, "task"),
    Endpoint("POST", "/api/tasks/{name}/jobs", "Enqueue a task", api.Key, status=201, body=api.EnqueueBody),
    Endpoint("GET", "/api/schedules", "The schedules", ScheduleRow, "schedules", many=True),
    Endpoint("POST", "/api/schedules", "Add one", ScheduleView, "schedule", status=201, body=api.NewScheduleBody),
    Endpoint("GET", "/api/schedules/{id}", "A schedule", ScheduleView, "schedule"),
    Endpoint("PATCH", "/api/schedules/{id}", "Change a schedule", ScheduleView, "schedule", body=api.ScheduleBody),
    Endpoint("DELETE", "/api/schedules/{id}", "Remove a schedule that was added here", str, "removed"),
    *(
        Endpoint(
            "POST", f"/api/schedules/{{id}}/{action}", f"{action.capitalize()} a schedule", ScheduleView, "schedule"
        )
        for action in ("pause", "resume", "reset")
    ),
    Endpoint("POST", "/api/schedules/{id}/jobs", "Run a schedule's job now", api.Key, status=201),
    Endpoint(
        "GET", "/api/stats", "How attempts ended, in columns", api.Stats, "stats", many=True,
        query=("range", "queue", "task"),
    ),
    Endpoint("GET", "/api/workers", "The processes that work", ProcessView, "workers", many=True),
    Endpoint("GET", "/health", "Whether jobs can be run; 503 if not", api.Health),
)  # fmt: skip
_RECORDED: Final = "/api/history/jobs"
OF_HISTORY: Final = (
    Endpoint(
        "GET", _RECORDED, "Recorded jobs, by what narrows them", api.RecordedJobs,
        query=("status", "queue", "task", "tag", "q", "since", "until", "cursor", "limit"),
    ),
    Endpoint("GET", f"{_RECORDED}/{{key}}", "All that is recorded of a job", RecordedJob, "job", query=("life",)),
    Endpoint(
        "POST", f"{_RECORDED}/{{key}}/rerun", "Run a recorded job again", api.Key, status=201, body=api.RerunBody,
        query=("life",),
    ),
    Endpoint("GET", "/api/history/gaps", "What could not be recorded", Gap, "gaps", many=True),
)  # fmt: skip


def describe(config: DashboardConfig, app: Litestar, *, history: bool) -> None:
    """Add the JSON API to the schema of an app, if that has one and it was asked for. To be called before it is served.

    Args:
        config: Where the dashboard is.
        app: The app.
        history: Whether it has a history.
    """
    if not config.openapi or app.openapi_config is None:
        return
    schema = app.openapi_schema
    endpoints = (*ENDPOINTS, *OF_HISTORY) if history else ENDPOINTS
    types = {kind for one in endpoints for kind in (one.answer, one.body) if kind not in (None, int, str)}
    _, definitions = msgspec.json.schema_components(
        sorted(types, key=str), ref_template=f"#/components/schemas/{_PREFIX}{{name}}"
    )
    # JSON Schema as it is: to Litestar's classes it is nothing but a dictionary.
    known: dict[str, Any] = schema.components.schemas
    known.update({f"{_PREFIX}{name}": definition for name, definition in definitions.items()})
    paths = dict(schema.paths or {})
    for one in endpoints:
        path = config.path + one.path
        item = paths.setdefault(path, PathItem())
        setattr(item, one.method.lower(), _operation(one, path))
    schema.paths = paths


def _operation(one: Endpoint, path: str) -> Operation:
    content = _content(one.answer)
    if one.many:
        content = Schema(type=OpenAPIType.ARRAY, items=content)
    if one.inside:
        content = Schema(type=OpenAPIType.OBJECT, properties={one.inside: content}, required=[one.inside])
    text = Schema(type=OpenAPIType.STRING)
    return Operation(
        tags=["tasks"],
        summary=one.summary,
        operation_id=_PREFIX + re.sub(r"\W+", " ", f"{one.method.lower()} {one.path}").title().replace(" ", ""),
        parameters=[
            *(Parameter(name=name, param_in="path", required=True, schema=text) for name in _PARAMETER.findall(path)),
            *(Parameter(name=name, param_in="query", schema=text) for name in one.query),
        ],
        request_body=RequestBody(
            content={"application/json": OpenAPIMediaType(schema=_content(one.body))}, required=True
        )
        if one.body
        else None,
        responses={
            str(one.status): OpenAPIResponse(
                description=one.summary, content={"application/json": OpenAPIMediaType(schema=content)}
            )
        },
    )


def _content(kind: type[Any]) -> Schema | Reference:
    if kind is int or kind is str:
        return Schema(type=OpenAPIType.INTEGER if kind is int else OpenAPIType.STRING)
    return Reference(ref=f"#/components/schemas/{_PREFIX}{kind.__name__}")
