"""procrastinate, as its documentation shows it. It lives on Postgres alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import bodies

LABEL = "procrastinate"
PACKAGES = ("procrastinate", "psycopg")
REQUIREMENTS = ("procrastinate>=3", "psycopg[binary,pool]")
BULK = "batch_defer_async, 1,000 at a time"
SAFETY = "a heartbeat for each worker; retrying what a lost one left is a task of one's own"
JOBS = 2_000


def _app(url: str) -> Any:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    for body in bodies.ASYNC:
        app.task(name=body.__name__)(body)
    return app


class Producer:
    """An app that defers."""

    async def open(self, url: str) -> None:
        self._app = _app(url)
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def enqueue(self, body: str, **arguments: Any) -> Any:
        return await self._app.configure_task(body).defer_async(**arguments)

    async def bulk(self, body: str, count: int, **arguments: Any) -> None:
        task = self._app.configure_task(body)
        for start in range(0, count, 1000):
            part = range(start, min(count, start + 1000))
            await task.batch_defer_async(*(arguments for _ in part))

    async def result(self, job: Any) -> None:
        raise NotImplementedError("it keeps no results")


async def work(url: str, concurrency: int, ready: Callable[[], None]) -> None:
    app = _app(url)
    async with app.open_async():
        ready()
        await app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)


async def make_tables(url: str) -> None:
    """What ``procrastinate schema --apply`` does."""
    app = _app(url)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
