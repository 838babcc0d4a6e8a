"""One request that was let in, and the addresses that it may mean."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from litestar.exceptions import NotFoundException
from litestar.response import Response

from litestar_tasks.dashboard.archive import Archive
from litestar_tasks.dashboard.redaction import Redactor
from litestar_tasks.dashboard.stats import SPANS
from litestar_tasks.dashboard.watch import Watch

if TYPE_CHECKING:
    from litestar import Request

    from litestar_tasks.config import DashboardConfig
    from litestar_tasks.dashboard.places import Place
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry

__all__ = ("Answer", "Dashboard", "Route", "Visit", "route")

Answer: TypeAlias = Response[Any]
Handler: TypeAlias = Callable[..., Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What all visits share."""

    config: DashboardConfig
    registry: Registry
    redactor: Redactor
    archive: Archive | None = None
    """The app's history, where it has one."""
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that was let in."""

    request: Request[Any, Any, Any]
    place: Place
    queues: Mapping[str, TaskQueue]
    dashboard: Dashboard
    may_act: bool
    """Whether its sender may change anything."""

    @property
    def registry(self) -> Registry:
        """The tasks and schedules."""
        return self.dashboard.registry

    @property
    def redactor(self) -> Redactor:
        """Makes of values what may be shown."""
        return self.dashboard.redactor

    @property
    def watch(self) -> Watch:
        """How the queues fare."""
        return self.dashboard.watch

    @property
    def archive(self) -> Archive:
        """The app's history.

        Raises:
            NotFoundException: It has none.
        """
        if self.dashboard.archive is None:
            raise NotFoundException("The app has no history; give it one: TasksConfig(history=HistoryConfig()).")
        return self.dashboard.archive

    @property
    def has_history(self) -> bool:
        """Whether the app has a history."""
        return self.dashboard.archive is not None

    def param(self, name: str, default: str = "") -> str:
        """A parameter of the address, without white space around it."""
        value = self.request.query_params.get(name, default)
        return str(value).strip()

    @property
    def span(self) -> str:
        """How far back the address looks: "hour" or "day"."""
        asked = self.param("range")
        return asked if asked in SPANS else "hour"

    def locate(self, id: str) -> tuple[str, str] | None:
        """The label of a job's queue and the job's key, by its id; None for one of elsewhere."""
        for label, queue in self.queues.items():
            if (prefix := queue.job_id("")) and id.startswith(prefix):
                return label, id.removeprefix(prefix)
        return None

    def queue(self, label: str) -> TaskQueue:
        """A queue by its label.

        Raises:
            NotFoundException: There is none; names those that exist.
        """
        if label in self.queues:
            return self.queues[label]
        raise NotFoundException(f"There is no queue {label!r}. There are: {', '.join(self.queues) or 'none'}.")


@dataclass(frozen=True, slots=True)
class Route:
    """An address, and what answers there."""

    method: str
    path: str
    """``/queues/{label}/jobs/{key}``; ``{key}`` may hold slashes that some proxy decoded."""
    handler: Handler
    pattern: re.Pattern[str]


_PARAMETER: Final = re.compile(r"\{(\w+)\}")


def route(method: str, path: str, handler: Handler) -> Route:
    """An address of the dashboard; with or without a slash at its end."""
    # A key's own slashes are encoded; one that some proxy decoded is understood all the same, hence the `.+?`.
    pattern = _PARAMETER.sub(lambda found: f"(?P<{found[1]}>{'.+?' if found[1] == 'key' else '[^/]+'})", path)
    return Route(method, path, handler, re.compile(f"{pattern}/?"))
