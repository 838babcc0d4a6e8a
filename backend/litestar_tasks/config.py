"""How an application is deployed: its broker, its queues, its dashboard. What its tasks mean is on the registry."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from litestar_tasks.broker_url import REDIS_SCHEMES, RedisURL, redact
from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.keyring import check_keys
from litestar_tasks.middleware import EnqueueHook, Middleware
from litestar_tasks.option_checks import check_middleware, check_on_enqueue
from litestar_tasks.queue_config import QueueConfig
from litestar_tasks.registry import Registry

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.types import Guard

__all__ = (
    "DashboardConfig",
    "HistoryConfig",
    "OutboxConfig",
    "QueueConfig",
    "TasksConfig",
    "WorkerLifespan",
    "check_durability",
    "redact",
)

WorkerLifespan: TypeAlias = (
    "Callable[[Litestar], AbstractAsyncContextManager[Mapping[str, object]] | AsyncIterator[Mapping[str, object]]]"
)
"""``async def (app)`` that yields once: what lives as long as a worker, by name."""

_POSTGRES = ("postgresql", "postgres")
_SCHEMES = (*REDIS_SCHEMES, *_POSTGRES, "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardConfig:
    """Where the dashboard is, and who may see it.

    Without guards it is closed: every request gets 403, but for one case: the app is in debug mode and the request
    comes from this machine.
    """

    path: str = "/saq"
    """The path under which it is served. Defaults to "/saq"."""
    guards: Sequence[Guard] = ()
    """Litestar guards that every request to it must pass. With guards, debug mode opens nothing. Defaults to none."""
    acting_guards: Sequence[Guard] = ()
    """Guards that a request must pass as well to change anything. Others see the pages without buttons. Defaults to
    none: who may see may act."""
    read_only: bool = False
    """Whether nobody can change anything here. Defaults to False."""
    redact: Sequence[str] = ()
    """Regular expressions for secrets, beside the known ones (passwords, tokens, keys, …). They hide the value of a
    field whose name matches, and what matches in a text. Case is ignored. Defaults to none."""
    openapi: bool = False
    """Whether the JSON API below ``/api`` is in the app's OpenAPI schema. Defaults to False."""

    def __post_init__(self) -> None:
        """Check the patterns, and bring the path into the form that the routes need."""
        for pattern in self.redact:
            try:
                empty = re.compile(pattern).search("") is not None
            except re.error as error:
                raise ConfigurationError(
                    f"redact holds {pattern!r}, which is no regular expression: {error}"
                ) from error
            if empty:
                raise ConfigurationError(f"redact holds {pattern!r}, which finds nothing in every text; make it longer")
        path = "/" + self.path.strip("/")
        if path == "/":
            raise ConfigurationError("the dashboard's path is '/', which is the app's own; give it one like '/saq'")
        object.__setattr__(self, "path", path)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxConfig:
    """How calls become part of transactions of the app's own database; see ``TasksConfig.outbox``.

    The database is that of an Advanced Alchemy plugin of the app: Postgres, or SQLite in a file, with any async driver
    of SQLAlchemy. The outbox's table belongs to that plugin's metadata, so that the app's migrations make it.
    """

    session: str = "db_session"
    """The name under which the app injects sessions of the database, its ``session_dependency_key``. Defaults to
    "db_session"."""
    table: str = "litestar_tasks_outbox"
    """The name of the table. Defaults to "litestar_tasks_outbox"."""
    in_requests: bool = False
    """Make calls in a request part of the transaction of its session, where the request has one and its transaction has
    begun. This holds for ``my_task.enqueue(…)`` and ``enqueue_many``, and not for ``task_queues.get(…).enqueue(…)``;
    ``using(session=None)`` is the way out for one call. Defaults to False: only ``using(session=…)`` does."""

    def __post_init__(self) -> None:
        """Check what can be seen without a database."""
        _check_names("outbox", self.table, self.session)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """What is kept of jobs in the app's own database, and for how long; see ``TasksConfig.history``.

    The database is that of an Advanced Alchemy plugin of the app: Postgres, or SQLite in a file, with any async driver
    of SQLAlchemy. The tables belong to that plugin's metadata, so that the app's migrations make them.
    """

    session: str = "db_session"
    """The name under which the app injects sessions of the database, its ``session_dependency_key``. Defaults to
    "db_session"."""
    table: str = "litestar_tasks_history"
    """The name of the table; that of the gaps has "_gaps" behind it. Defaults to "litestar_tasks_history"."""
    keep: timedelta | None = timedelta(days=90)
    """How long a job is kept after the last that happened to it. Defaults to 90 days; None for ever."""
    keep_jobs: int | None = 1_000_000
    """How many jobs are kept; the oldest go first. Defaults to a million; None for any number."""
    buffer: int = 50_000
    """How many jobs a process remembers while it is busy, or the database is slow or away, at one or two kB each; more
    are counted as gaps. Defaults to 50,000."""

    def __post_init__(self) -> None:
        """Check what can be seen without a database."""
        _check_names("history", self.table, self.session)
        if self.keep is not None and self.keep <= timedelta():
            raise ConfigurationError(f"the history's keep is {self.keep}; give a time to keep jobs for, or None")
        for name, number in (("keep_jobs", self.keep_jobs), ("buffer", self.buffer)):
            if number is not None and number < 1:
                raise ConfigurationError(f"the history's {name} is {number}; give at least 1")


def _check_names(part: str, table: str, session: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,49}", table):
        raise ConfigurationError(
            f"the {part}'s table is called {table!r}; use up to 50 letters, digits and '_', such as "
            f"'litestar_tasks_{part}'"
        )
    if not session.isidentifier():
        raise ConfigurationError(
            f"the {part}'s session is called {session!r}, which cannot be a parameter; give the "
            "session_dependency_key of an Advanced Alchemy plugin, such as 'db_session'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksConfig:
    """The settings of ``TasksPlugin``.

    The same object serves the web process and the worker: which of them it is follows from how the process was
    started, never from here.
    """

    registry: Registry
    """The tasks."""
    broker_url: str | None = field(default=None, repr=False)
    """Where jobs wait: ``redis://``, ``rediss://``, ``unix://``, ``valkey://`` or ``postgresql://`` for a server of
    yours; ``redis+cluster://`` for a cluster, ``redis+sentinel://`` for what sentinels watch; ``memory://`` for this
    process alone, lost with it. Defaults to None: the embedded server, a private Redis in ``embedded_directory`` that
    is started with the first process and stopped with the last."""
    embedded_directory: Path | str = ".litestar-tasks"
    """The folder of the embedded server's data and socket; without effect if ``broker_url`` is set. Relative paths
    start from the process's working directory. Defaults to ".litestar-tasks"."""
    namespace: str = ""
    """Keeps services and environments apart that share a broker: no job crosses it. Letters, digits, ``-`` and
    ``_``. Defaults to "": none."""
    queue_configs: Sequence[QueueConfig] | None = None
    """The queues and their settings, as ``registry.queue_configs(…)`` builds them. Queues that only a task names are
    added with the defaults. Defaults to None: all with the defaults."""
    dashboard: DashboardConfig | None = field(default_factory=DashboardConfig)
    """The dashboard; None for none. Defaults to one at "/saq" that is closed outside debug mode."""
    in_process_worker: bool = False
    """Run a worker within the web process, on its event loop: for tests, for ``memory://`` and for small deployments
    of one process. Defaults to False: workers are processes of their own."""
    lifespan: Sequence[WorkerLifespan] = ()
    """What lives as long as a worker: functions of the app that yield a mapping once. Each worker process enters them
    after the app's own lifespan and before it claims jobs, and leaves them when its last job has ended. What is in the
    mappings is injected into tasks by name, and stands in ``ctx``. Defaults to none."""
    middleware: Sequence[Middleware] = ()
    """Middleware around each attempt of every task, outside of that of registries and tasks. Defaults to none."""
    on_enqueue: Sequence[EnqueueHook] = ()
    """Hooks that see each call before it is stored, before those of registries and tasks. Defaults to none."""
    correlation_headers: Sequence[str] = ("X-Request-ID", "traceparent")
    """The headers of a request from which its jobs get their correlation id, the most important first; an empty list
    for no header. Defaults to X-Request-ID and traceparent."""
    secret_keys: Sequence[str] = field(default=(), repr=False)
    """The keys that encrypt what tasks annotate ``Secret[…]``, the newest first: Fernet keys, of which the first one
    encrypts and all decrypt. They need the extra ``secrets``. Defaults to none."""
    enqueue_timeout: float = 2.0
    """Seconds after which an enqueue that the broker has not answered raises ``QueueUnavailableError``. Defaults to
    2."""
    outbox: OutboxConfig | None = None
    """Lets jobs be part of transactions of the app's database, by ``using(session=…)``. Defaults to None: no job is."""
    history: HistoryConfig | None = None
    """Records what became of jobs in the app's database, where it lasts and can be searched. Defaults to None: what the
    broker keeps is all."""
    durability: str = "process"
    """What an enqueue waits for. "process": the server has the job, which survives the end of any process. "disk": it
    is on the disk of the server's machine. "replicas:n", such as "replicas:1": n replicas have it, too. Defaults to
    "process"."""
    lease: float = 15.0
    """Seconds without a sign of life after which a worker process counts as lost and its jobs run elsewhere, whatever
    their timeouts. A worker gives one five times as often, from a thread of its own. Longer than any stretch for which
    C code of a task may hold the GIL. Defaults to 15."""

    def __post_init__(self) -> None:
        """Check what can be seen without a broker."""
        if self.namespace and not all(char.isalnum() or char in "-_" for char in self.namespace):
            raise ConfigurationError(
                f"namespace {self.namespace!r} holds characters that would break the broker's keys; "
                "use letters, digits, '-' and '_'"
            )
        if self.lease < 1:
            raise ConfigurationError(f"lease is {self.lease}; give at least 1 second")
        if self.enqueue_timeout <= 0:
            raise ConfigurationError(f"enqueue_timeout is {self.enqueue_timeout}; give more than 0 seconds")
        check_keys(self.secret_keys)
        check_durability(self.durability)
        check_middleware(self.middleware, "middleware")
        check_on_enqueue(self.on_enqueue, "on_enqueue")
        if isinstance(self.correlation_headers, str):
            raise ConfigurationError(
                f"correlation_headers is {self.correlation_headers!r}; give a list: [{self.correlation_headers!r}]"
            )
        for one in self.lifespan:
            if not callable(one):
                raise ConfigurationError(f"lifespan holds {one!r}; give functions of the app that yield a mapping once")
        names = [config.name for config in self.queue_configs or ()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(f"queue {min(twice)!r} is configured twice; join the two into one QueueConfig")
        if self.broker_url is not None:
            _check_url(self.broker_url)
            if self.durability != "process" and self.broker_url.lower().startswith("memory:"):
                raise ConfigurationError(
                    f"durability={self.durability!r} cannot be kept by memory://, whose jobs end with the process; "
                    'name a Redis, or leave it at "process"'
                )

    @property
    def broker(self) -> str:
        """The broker and the namespace in words, without credentials."""
        where = redact(self.broker_url) if self.broker_url else f"the embedded server in {self.embedded_directory}"
        return f"{where}, namespace {self.namespace!r}" if self.namespace else where


def check_durability(text: str) -> None:
    """Refuse what no ``TasksConfig.durability`` can be.

    Raises:
        ConfigurationError: It is none; lists those that there are.
    """
    if not re.fullmatch(r"process|disk|replicas:[1-9][0-9]*", text):
        raise ConfigurationError(
            f'durability is {text!r}; use "process", "disk", or "replicas:n" with how many have to have a job, such as '
            '"replicas:1"'
        )


def _check_url(url: str) -> None:
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme.startswith(("postgresql+", "postgres+")):
        raise ConfigurationError(
            f"broker_url names a driver, {scheme!r}, as SQLAlchemy's URLs do; write postgresql:// for the broker"
        )
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"broker_url {redact(url)!r} has an unknown scheme; known: {', '.join(f'{name}://' for name in _SCHEMES)}"
        )
    if scheme in REDIS_SCHEMES:
        RedisURL.parse(url)
    if scheme not in _POSTGRES:
        return
    encode = "a '/', '#', '@' or ':' in the password must be percent-encoded"
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:  # its text may show a part of the password
        raise ConfigurationError(
            f"broker_url cannot be read: what follows the ':' behind the host is no port; {encode}"
        ) from None
    if not parts.path.strip("/") or parts.fragment:
        raise ConfigurationError(
            f"broker_url was read as host {parts.hostname!r}, port {port}, database {parts.path.strip('/')!r}, which "
            f"cannot be meant; {encode}"
        )
