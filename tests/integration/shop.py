"""A small shop with a dashboard, and who visits it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, Literal

import httpx
from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.types import ASGIApp, Receive, Scope, Send
from saq.job import Job

from litestar_tasks import DashboardConfig, HistoryConfig, Registry, Secret, TasksConfig, TasksPlugin
from litestar_tasks.outbox.history import JobHistory
from litestar_tasks.queues.base import TaskQueue

__all__ = ("HTML", "OWN_FORM", "SCRIPT", "SECRET", "Running", "Tags", "anybody", "links", "nobody", "running")

SECRET = "hunter2-SECRET"
HTML = {"accept": "text/html,application/xhtml+xml"}
SCRIPT = {"content-type": "application/json"}
OWN_FORM = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}


async def anybody(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
    """A guard that lets everybody in."""


async def nobody(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
    raise NotAuthorizedException("who are you?")


class Peer:
    """A client at an address, and what stands between it and the app."""

    def __init__(self, app: Litestar) -> None:
        self._app = app

    def __call__(
        self,
        peer: str | None = "127.0.0.1",
        *,
        url: str = "http://localhost:8000",
        root_path: str = "",
        through: Callable[[ASGIApp], ASGIApp] | None = None,
    ) -> httpx.AsyncClient:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if peer is None:
                scope["client"] = None
            await (through(self._app) if through else self._app)(scope, receive, send)

        transport = httpx.ASGITransport(
            app,  # type: ignore[arg-type]  # httpx spells ASGI's types in its own way
            client=(peer or "", 4711),
            root_path=root_path,
            raise_app_exceptions=False,
        )
        return httpx.AsyncClient(transport=transport, base_url=url)


class Running(SimpleNamespace):
    app: Litestar
    at: Peer
    queue: TaskQueue
    queues: Mapping[str, TaskQueue]
    gate: asyncio.Event
    history: JobHistory
    database: SQLAlchemyAsyncConfig

    async def job(self, function: str = "add", *, key: str = "job-1", end: bool = True, **fields: Any) -> Job:
        """A job with any fields, run to its end."""
        job = await self.queue.enqueue(Job(function=function, key=key, **fields))
        if end:
            await self.queue.wait(job.key, 5)
        return job

    async def until(self, key: str, status: str) -> None:
        async with asyncio.timeout(5):
            while await self.queue.status(key) != status:  # noqa: ASYNC110  # the queue announces ends, not starts
                await asyncio.sleep(0.005)


async def reported(queue: TaskQueue) -> None:
    """Wait for the worker's first word, a moment after it started."""
    while not await queue.workers():  # noqa: ASYNC110  # nobody announces it
        await asyncio.sleep(0.001)


@asynccontextmanager
async def running(
    *,
    guards: Sequence[Any] = (anybody,),
    path: str = "/saq",
    worker: bool = True,
    broker_url: str = "memory://",
    dashboard: Mapping[str, Any] | None = None,
    history: str | None = None,
    **options: Any,
) -> AsyncGenerator[Running, None]:
    registry = Registry("shop", allow_local=True)
    gate = asyncio.Event()

    @registry.task
    async def add(*, a: Any = 1, b: Any = 2) -> Any:
        return {"sum": a}

    @registry.task
    async def echo(*, value: Any) -> Any:
        return value

    @registry.task
    async def fail(*, why: str = "no reason") -> None:
        raise RuntimeError(why)

    @registry.task
    async def wait(*, n: int = 0) -> None:
        await gate.wait()

    @registry.task(queue="emails")
    async def mail(*, to: str = "") -> None: ...

    @registry.scheduled_task(cron="0 3 * * *", kwargs={"days": 7})
    async def report(
        *,
        days: int = 1,
        kind: Literal["short", "long"] = "short",
        to: list[str] | None = None,
        password: str = "",
        pin: Secret[str] = "",
    ) -> int:
        """Mail a report."""
        if days < 0:
            raise ValueError(f"no report for {days} days")
        return days

    database = SQLAlchemyAsyncConfig(
        connection_string=history,
        bind_key="shop",  # away from the reference app's models
        create_all=True,
        engine_config=EngineConfig(pool_size=5),
    )
    plugin = TasksPlugin(
        TasksConfig(
            registry=registry,
            broker_url=broker_url,
            secret_keys=["A" * 43 + "="],
            in_process_worker=worker,
            dashboard=DashboardConfig(path=path, guards=guards, **(dashboard or {})),
            history=HistoryConfig() if history else None,
        )
    )
    plugins = [plugin, SQLAlchemyPlugin(database)] if history else [plugin]
    app = Litestar(plugins=plugins, **{"debug": False, "logging_config": None, **options})
    try:
        async with app.lifespan():
            queues = {label: plugin.get_queue(label) for label in ("default", "emails")}
            if worker:
                await asyncio.gather(*map(reported, queues.values()))
            try:
                shop = Running(app=app, at=Peer(app), queue=queues["default"], queues=queues, gate=gate)
                if history:
                    shop.history, shop.database = plugin.get_history(), database
                yield shop
            finally:
                gate.set()
    finally:
        if history:
            await database.get_engine().dispose()  # Advanced Alchemy forgets it, from a process's second app on


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[str] = []
        self.links: list[str] = []
        self.forms: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += [name for name, _ in attrs]
        for name, value in attrs:
            if name in ("href", "src") and not (value or "").startswith("data:"):
                self.links.append(value or "")
            if name == "action":
                self.forms.append(value or "")


def links(page: str) -> list[str]:
    return Tags(page).links
