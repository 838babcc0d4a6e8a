"""What a worker supplies: providers of the app, the registry and the task, resources, sessions, the job itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from saq.types import Context
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from litestar_tasks import INJECTED, CurrentJob, JobFailedError, JobHandle, Registry, StartupError
from tests.features.conftest import Run


class Book(BigIntBase):
    __bind_key__ = "books"  # its own metadata: the default ones are the reference application's

    title: Mapped[str]


class BookService(SQLAlchemyAsyncRepositoryService[Book]):
    class Repository(SQLAlchemyAsyncRepository[Book]):
        model_type = Book

    repository_type = Repository


class Client:
    def __init__(self, name: str = "") -> None:
        self.name = name


class Mailer:
    """A class as a provider: made with what its constructor asks for."""

    def __init__(self, client: Client, sender: Client) -> None:
        self.clients = (client, sender)


async def test_providers_of_each_level_and_kind_reach_a_task(run: Run) -> None:
    made: list[str] = []

    async def plain() -> Client:
        made.append("plain")
        return Client("app")

    async def generator(client: Client) -> AsyncGenerator[Client, None]:
        made.append("opened")
        yield Client(f"{client.name} → generator")
        made.append("closed")

    def sync_generator(client: Client) -> Generator[Client, None, None]:
        yield Client(f"{client.name} → sync")

    async def cached() -> Client:
        made.append("cached")
        return Client("cached")

    registry = Registry(
        "test", allow_local=True, dependencies={"mailer": Mailer, "kept": Provide(cached, use_cache=True)}
    )

    @registry.task(dependencies={"own": sync_generator})
    async def fn(
        n: int,
        *,
        sender: Client = INJECTED,
        mailer: Mailer = INJECTED,
        kept: NamedDependency[Client],
        own: Client,
        state: State = INJECTED,
    ) -> list[str]:
        assert mailer.clients[1] is sender
        return [sender.name, mailer.clients[0].name, kept.name, own.name, state.colour]

    fn.fn.__annotations__["kept"] = NamedDependency[Client]
    providers = {"client": Provide(plain), "sender": Provide(generator)}
    async with run(registry, app={"dependencies": providers, "state": State({"colour": "red"})}):
        for _ in range(2):
            job: JobHandle[list[str]] = await registry.get_task("fn").enqueue(1)
            assert await job.result(timeout=20) == ["app → generator", "app", "cached", "app → sync", "red"]
    assert made.count("plain") == 2, "once per attempt"
    assert made.count("cached") == 1
    assert made.count("opened") == made.count("closed") == 2


async def test_resources_live_as_long_as_the_worker_and_are_in_the_context(run: Run, registry: Registry) -> None:
    events: list[str] = []

    async def http(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
        events.append("opened")
        yield {"http_client": Client("resource")}
        events.append("closed")

    @asynccontextmanager
    async def more(app: Litestar) -> AsyncGenerator[Mapping[str, object], None]:
        yield {"other": Client("other")}

    @registry.task
    async def by_name(*, http_client: Client = INJECTED, other: Client = INJECTED) -> str:
        return f"{http_client.name}, {other.name}"

    @registry.task
    async def through_the_context(ctx: Context) -> str:
        client: Any = ctx["http_client"]  # type: ignore[typeddict-item]  # SAQ's Context does not know it
        return f"{client.name} of {ctx['job'].function}, {type(ctx['worker']).__name__}"

    async with run(registry, lifespan=[http, more]):
        for _ in range(2):
            assert await (await by_name.enqueue()).result(timeout=20) == "resource, other"
        found = await (await through_the_context.enqueue()).result(timeout=20)
        assert found == "resource of through_the_context, Worker"
        assert events == ["opened"]
    assert events == ["opened", "closed"]


async def test_the_running_job_is_a_handle_of_itself(run: Run, registry: Registry) -> None:
    @registry.task
    async def fn(n: int, this: CurrentJob, *, other: CurrentJob = INJECTED) -> list[str]:
        assert other is this
        return [this.id, await this.status(), this.task]

    async with run(registry):
        job = await registry.get_task("fn").enqueue(1)
        assert await job.result(timeout=20) == [job.id, "active", "fn"]


async def test_services_of_advanced_alchemy_commit_with_the_task_and_roll_back_with_its_failure(
    run: Run, registry: Registry, tmp_path: Path
) -> None:
    async def provide_books(db_session: AsyncSession) -> AsyncGenerator[BookService, None]:
        async with BookService.new(session=db_session) as service:
            yield service

    @registry.task
    async def add(*, title: str, books: BookService = INJECTED) -> int:
        book = await books.create({"title": title})
        if not title:
            raise ValueError("a book has a title")
        return book.id

    @registry.task
    async def titles(*, db_session: AsyncSession = INJECTED) -> list[str]:
        return list((await db_session.scalars(select(Book.title))).all())

    database = SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite3'}",
        session_config=AsyncSessionConfig(expire_on_commit=False),
        bind_key=Book.__bind_key__,
        metadata=Book.metadata,
        create_all=True,
    )
    # Advanced Alchemy closes the engine under this name, but numbers it from a process's second configuration on.
    database.engine_app_state_key = database.engine_dependency_key
    options = {"plugins": [SQLAlchemyPlugin(database)], "dependencies": {"books": Provide(provide_books)}}
    async with run(registry, app=options):
        assert await (await add.enqueue(title="Emma")).result(timeout=20) == 1
        with pytest.raises(JobFailedError, match="a book has a title"):
            await (await add.enqueue(title="")).result(timeout=20)
        assert await (await titles.enqueue()).result(timeout=20) == ["Emma"]


async def test_what_cannot_be_resolved_refuses_the_start_with_the_path(run: Run, registry: Registry) -> None:
    async def needs_request(request: Any) -> Client: ...  # type: ignore[empty-body]  # not run
    async def round_one(two: Client) -> Client: ...  # type: ignore[empty-body]  # not run
    async def round_two(one: Client) -> Client: ...  # type: ignore[empty-body]  # not run
    async def outer(inner: Client) -> Client: ...  # type: ignore[empty-body]  # not run

    @registry.task
    async def asking(*, outer: Client) -> None: ...

    @registry.task
    async def circling(*, one: Client) -> None: ...

    @registry.task
    async def missing(*, user: Client) -> None: ...

    providers = {
        "inner": Provide(needs_request),
        "outer": Provide(outer),
        "one": Provide(round_one),
        "two": Provide(round_two),
    }
    with pytest.raises(BaseExceptionGroup) as caught:
        async with run(registry, app={"dependencies": providers}):
            pass
    (error,) = caught.value.exceptions
    assert isinstance(error, StartupError)
    text = str(error)
    assert "task 'asking' → 'outer' → 'inner' needs 'request', which exists only in a request" in text
    assert "task 'circling' → 'one' → 'two' → 'one': the dependencies need each other in a circle" in text
    assert "parameter 'user': the app has no dependency 'user'" in text
