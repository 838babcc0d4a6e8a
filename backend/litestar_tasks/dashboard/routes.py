"""The one door, and what is behind it.

Litestar sees one route for everything below the dashboard's path, whatever the method: so no address of it, known or
not, can be reached around the guards; and a job's key is read from the raw path, where ``%2F`` is not yet a slash.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from litestar import Request, Router, route
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.response import Response
from litestar_saq import TaskQueues

from litestar_tasks.dashboard import (
    access,
    answers,
    api,
    job,
    jobs,
    overview,
    queues,
    recorded,
    schedules,
    tasks,
    workers,
)
from litestar_tasks.dashboard.archive import Archive
from litestar_tasks.dashboard.explained import Explained
from litestar_tasks.dashboard.headers import safe_headers
from litestar_tasks.dashboard.places import Place, locate
from litestar_tasks.dashboard.redaction import Redactor
from litestar_tasks.dashboard.visit import Answer, Dashboard, Route, Visit
from litestar_tasks.dashboard.visit import route as address
from litestar_tasks.redaction import masked_text

if TYPE_CHECKING:
    from litestar.handlers import BaseRouteHandler
    from litestar.types import ControllerRouterHandler

    from litestar_tasks.config import DashboardConfig
    from litestar_tasks.outbox.history import JobHistory
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry

__all__ = ("dashboard_handlers",)

logger = logging.getLogger("litestar_tasks.dashboard")

_HINTS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("That cannot be understood", "Go back, and try again."),
    401: ("Who are you?", "Reload the page, and give your name and password."),
    403: ("This is closed to you", ""),
    404: (
        "Nothing is here",
        "It may have been deleted, or its record may have expired. The search finds what is kept.",
    ),
    405: ("Nothing was done", "This address takes another method."),
    409: ("That cannot be done now", "Go back and look again: it may have changed meanwhile."),
    500: ("Something is wrong here", "The server's log says what; this page tries again by itself."),
    503: ("The queues do not answer", "This page tries again by itself. Jobs that run go on; results are kept."),
}


def dashboard_handlers(
    config: DashboardConfig, registry: Registry, history: Callable[[], JobHistory] | None = None
) -> list[ControllerRouterHandler]:
    """The dashboard's route, for an app that provides ``task_queues``.

    Args:
        config: Where it is, and who may see it.
        registry: The tasks and schedules.
        history: Hands out the history of the app that runs. Defaults to None: it has none.

    Returns:
        What goes into the app's route handlers.
    """
    shared = Dashboard(config, registry, Redactor(config.redact), Archive(history) if history else None)

    @route(
        ["/", "/{rest:path}"],
        http_method=[HttpMethod(name) for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")],
        name="litestar_tasks:dashboard",
    )
    async def dashboard(request: Request[Any, Any, Any], task_queues: NamedDependency[TaskQueues]) -> Response[Any]:
        visit = Visit(
            request,
            locate(request.scope, config.path),
            # Ours by construction; litestar-saq's annotation says no more than SAQ's Queue.
            cast("Mapping[str, TaskQueue]", task_queues.queues),
            shared,
            await access.may_act(config, request, cast("BaseRouteHandler", request.route_handler)),
        )
        answer = await _show(visit)
        if shared.watch.behind():
            answer.background = BackgroundTask(shared.watch.catch_up)
        return answer

    def refuse(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        return _explain(request, locate(request.scope, config.path), error, has_history=history is not None)

    def fail(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        logger.error("%s", masked_text("".join(traceback.format_exception(error))))
        return refuse(request, HTTPException("This could not be shown. The server's log says why.", status_code=500))

    return [
        Router(
            config.path,
            route_handlers=[dashboard],
            guards=access.guards(config),
            middleware=[safe_headers],
            exception_handlers={HTTPException: refuse, Exception: fail},
            include_in_schema=False,
            # Its own check of where a request comes from takes the place of CSRFConfig's tokens.
            opt={"exclude_from_csrf": True},
            dto=None,
            return_dto=None,
        )
    ]


async def _show(visit: Visit) -> Answer:
    method = "GET" if visit.request.method == "HEAD" else visit.request.method
    allowed: list[str] = []
    for known in _ROUTES:
        if (match := known.pattern.fullmatch(visit.place.rest)) is None:
            continue
        if known.method == method:
            return await known.handler(visit, **{name: unquote(value) for name, value in match.groupdict().items()})
        allowed.append(known.method)
    if allowed:
        methods = sorted(set(allowed))
        raise MethodNotAllowedException(f"This takes {' and '.join(methods)}.", headers={"allow": ", ".join(methods)})
    raise NotFoundException("The dashboard has no such page.")


def _explain(request: Request[Any, Any, Any], place: Place, error: HTTPException, *, has_history: bool) -> Answer:
    """An error as a page to those who read pages, and as Litestar's usual JSON to the others."""
    wants_page = "text/html" in request.headers.get("accept", "") and not place.rest.startswith(("/api", "/health"))
    if wants_page:
        title, hint = _HINTS.get(error.status_code, ("That did not work", ""))
        link = None
        if isinstance(error, Explained):
            title, hint, link = error.title, error.hint, error.link
        answer: Answer = answers.error(
            request.app, place, status_code=error.status_code, title=title, detail=error.detail, hint=hint, link=link,
            has_history=has_history,
        )  # fmt: skip
    else:
        answer = answers.json({"status_code": error.status_code, "detail": error.detail}, status_code=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _asset(visit: Visit, name: str) -> Answer:
    if (found := answers.asset(visit.request, name)) is None:
        raise NotFoundException("The dashboard has no such file.")
    return found


_ROUTES: Final[tuple[Route, ...]] = (
    *overview.ROUTES,
    *jobs.ROUTES,
    *job.ROUTES,
    *queues.ROUTES,
    *tasks.ROUTES,
    *schedules.ROUTES,
    *workers.ROUTES,
    *recorded.ROUTES,
    *api.ROUTES,
    address("GET", "/static/{name}", _asset),
)
