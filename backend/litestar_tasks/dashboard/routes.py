"""Which address shows what.

Litestar sees one route for everything below the dashboard's path, whatever the method: so no address of it, known or
not, can be reached around the guards; and a job's key is read from the raw path, where ``%2F`` is not yet a slash.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import unquote

from litestar import Request, Router, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.response import Response
from litestar_saq import TaskQueues

from litestar_tasks.dashboard import access, actions, answers, views
from litestar_tasks.dashboard.headers import safe_headers
from litestar_tasks.dashboard.places import Place, locate
from litestar_tasks.redaction import masked_text

if TYPE_CHECKING:
    from litestar.types import ControllerRouterHandler

    from litestar_tasks.config import DashboardConfig
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("dashboard_handlers",)

logger = logging.getLogger("litestar_tasks.dashboard")

_Answer: TypeAlias = Response[Any]


def dashboard_handlers(config: DashboardConfig) -> list[ControllerRouterHandler]:
    """The dashboard's route, for an app that provides ``task_queues``.

    Args:
        config: Where it is, and who may see it.

    Returns:
        What goes into the app's route handlers.
    """

    @route(
        ["/", "/{rest:path}"],
        http_method=[HttpMethod(name) for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")],
        name="litestar_tasks:dashboard",
    )
    async def dashboard(request: Request[Any, Any, Any], task_queues: NamedDependency[TaskQueues]) -> Response[Any]:
        visit = _Visit(
            request,
            locate(request.scope, config.path),
            # Ours by construction; litestar-saq's annotation says no more than SAQ's Queue.
            cast("Mapping[str, TaskQueue]", task_queues.queues),
        )
        return await _show(visit)

    def refuse(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        return _explain(request, locate(request.scope, config.path), error)

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


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request that was let in."""

    request: Request[Any, Any, Any]
    place: Place
    queues: Mapping[str, TaskQueue]

    def queue(self, label: str) -> TaskQueue:
        """A queue by its label.

        Raises:
            NotFoundException: There is none; names those that exist.
        """
        if label in self.queues:
            return self.queues[label]
        raise NotFoundException(f"There is no queue {label!r}. There are: {', '.join(self.queues) or 'none'}.")


async def _show(visit: _Visit) -> _Answer:
    method = "GET" if visit.request.method == "HEAD" else visit.request.method
    allowed: list[str] = []
    for expected, pattern, handler in _ROUTES:
        if (match := pattern.fullmatch(visit.place.rest)) is None:
            continue
        if expected == method:
            return await handler(visit, **{name: unquote(value) for name, value in match.groupdict().items()})
        allowed.append(expected)
    if allowed:
        raise MethodNotAllowedException(f"This takes {' and '.join(allowed)}.", headers={"allow": ", ".join(allowed)})
    raise NotFoundException("The dashboard has no such page.")


def _explain(request: Request[Any, Any, Any], place: Place, error: HTTPException) -> _Answer:
    """An error as a page to those who read pages, and as Litestar's usual JSON to the others."""
    wants_page = "text/html" in request.headers.get("accept", "") and not place.rest.startswith(("/api", "/health"))
    if wants_page:
        answer = answers.page(
            "error", place, status_code=error.status_code, status=error.status_code, detail=error.detail
        )
    else:
        answer = answers.json({"status_code": error.status_code, "detail": error.detail}, status_code=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _home_page(visit: _Visit) -> _Answer:
    queues = await views.queues(visit.queues, jobs=10)
    return answers.page("home", visit.place, queues=queues, jobs=views.latest(queues, 10))


async def _queue_page(visit: _Visit, label: str) -> _Answer:
    return answers.page("queue", visit.place, queue=await views.queue(visit.queue(label)))


async def _job_page(visit: _Visit, label: str, key: str) -> _Answer:
    return answers.page("job", visit.place, job=await views.job(visit.queue(label), key))


async def _job_form(visit: _Visit, label: str, key: str, action: str) -> _Answer:
    key = await _ACTIONS[action](visit.queue(label), key, actions.who(visit.request))
    return answers.redirect(visit.place.link("queues", label, "jobs", key))


async def _queues_json(visit: _Visit) -> _Answer:
    return answers.json({"queues": await views.queues(visit.queues)})


async def _queue_json(visit: _Visit, label: str) -> _Answer:
    return answers.json({"queue": await views.queue(visit.queue(label))})


async def _job_json(visit: _Visit, label: str, key: str) -> _Answer:
    return answers.json({"job": await views.job(visit.queue(label), key)})


async def _job_action(visit: _Visit, label: str, key: str, action: str) -> _Answer:
    key = await _ACTIONS[action](visit.queue(label), key, actions.who(visit.request))
    return answers.json({"key": key}, status_code=202)


async def _health(visit: _Visit) -> _Answer:
    health = await views.health(visit.queues)
    return answers.json(health, status_code=200 if health.status == "ok" else 503)


async def _asset(visit: _Visit, name: str) -> _Answer:
    if (found := answers.asset(name)) is None:
        raise NotFoundException("The dashboard has no such file.")
    return found


_ACTIONS: Final = {"abort": actions.abort, "retry": actions.retry}
# A key's own slashes are encoded; one that some proxy decoded is understood all the same, hence the `.+`.
_JOB: Final = r"/queues/(?P<label>[^/]+)/jobs/(?P<key>.+?)"
_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Awaitable[_Answer]]], ...]] = (
    ("GET", re.compile(r"/?"), _home_page),
    ("GET", re.compile(r"/queues/(?P<label>[^/]+)/?"), _queue_page),
    ("POST", re.compile(_JOB + r"/(?P<action>abort|retry)/?"), _job_form),
    ("GET", re.compile(_JOB + "/?"), _job_page),
    ("GET", re.compile(r"/api/queues/?"), _queues_json),
    ("GET", re.compile(r"/api/queues/(?P<label>[^/]+)/?"), _queue_json),
    ("POST", re.compile("/api" + _JOB + r"/(?P<action>abort|retry)/?"), _job_action),
    ("GET", re.compile("/api" + _JOB + "/?"), _job_json),
    ("GET", re.compile(r"/health/?"), _health),
    ("GET", re.compile(r"/static/(?P<name>[^/]+)"), _asset),
)
