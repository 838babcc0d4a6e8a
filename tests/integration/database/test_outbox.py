"""Calls within transactions of the app's own database: real databases, real brokers, real drivers."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from httpx import ASGITransport, AsyncClient
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy import URL, Column, Integer, MetaData, Table, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from litestar_tasks import (
    INJECTED,
    ConfigurationError,
    JobHandle,
    JobNotFoundError,
    OutboxConfig,
    Registry,
    Retry,
    StartupError,
    TaskQueues,
    TasksConfig,
    TasksPlugin,
    correlation_id,
    enqueue_many,
)
from litestar_tasks.outbox import relay, rows
from litestar_tasks.outbox.models import outbox_table
from litestar_tasks.outbox.outbox import Outbox
from litestar_tasks.queues.postgres.migrations import migrate
from tests.integration.conftest import eventually
from tests.integration.database.conftest import (
    DRIVERS,
    DatabaseApp,
    Start,
    as_sqlalchemy,
    litestar,
    make_app,
    serving,
)
from tests.servers import PostgresServer, RedisServer

TABLE = "litestar_tasks_outbox"

registry = Registry("test", allow_local=True)
ran: list[int] = []


@registry.task
async def note(*, n: int) -> int:
    ran.append(n)
    return n


@registry.task(queue="other", priority=5)
async def note_elsewhere(*, n: int) -> int:
    ran.append(n)
    return n


@registry.task(max_attempts=3, backoff=lambda _: 0)
async def follow_up(*, n: int, fail: bool = False, db_session: AsyncSession = INJECTED) -> str:
    attempt = (await db_session.execute(text("SELECT count(*) FROM attempts"))).scalar_one()
    async with db_session.bind.begin() as connection:  # type: ignore[union-attr]  # it has one: outside of the session
        await connection.execute(text("INSERT INTO attempts VALUES (1)"))
    child = await note.using(session=db_session).enqueue(n=n + attempt)
    if fail or attempt == 0:
        raise Retry
    return child.id


class App(DatabaseApp):
    """One process's app, and what its outbox holds."""

    @property
    def outbox(self) -> Outbox:
        return self.plugin.get_outbox()

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self.config.get_session()

    async def rows(self) -> int:
        return int((await self.sql(f"SELECT count(*) FROM {TABLE}"))[0][0])

    async def waiting(self) -> int:
        return (await self.outbox.counts()).waiting

    async def result(self, job: JobHandle[Any]) -> Any:
        """A job's result; it has first to be delivered."""
        await eventually(lambda: known(job), within=30)
        return await job.result(timeout=30)


async def known(job: JobHandle[Any]) -> bool:
    try:
        await job.status()
    except JobNotFoundError:
        return False
    return True


async def has_run(*numbers: int) -> bool:
    return ran == list(numbers)


def make(url: str, broker: str, **options: Any) -> App:
    settings = OutboxConfig(**options.pop("outbox", {}))
    return make_app(App, url, broker, bind_key="outbox-tests", **{"registry": registry, "outbox": settings, **options})


@asynccontextmanager
async def running(url: str, broker: str, **options: Any) -> AsyncIterator[App]:
    async with serving(make(url, broker, **options)) as one:
        await one.sql("CREATE TABLE IF NOT EXISTS attempts (n integer)")
        yield one


@pytest.fixture
def start(url: str, redis_server: RedisServer) -> Start[App]:
    """Starts an app with an outbox and a worker of its own, on an empty broker."""
    redis_server.client.flushall()
    ran.clear()
    return lambda **options: running(url, redis_server.url, **options)


# Transactions decide


async def test_a_job_exists_once_its_transaction_has_committed_and_never_without(start: Start[App]) -> None:
    async with start() as app:
        async with app.session() as session:
            job = await note.using(session=session).enqueue(n=1)
            assert job.id.startswith("saq:job:default:")
            with pytest.raises(JobNotFoundError):
                await job.status()
            await session.commit()
        async with app.session() as session:
            rolled_back = await note.using(session=session).enqueue(n=2)
            await session.rollback()
            forgotten = await note.using(session=session).enqueue(n=3)
        assert await app.result(job) == 1
        async with app.session() as session:
            last = await note.using(session=session).enqueue(n=4)
            await session.commit()
        assert await app.result(last) == 4
        assert ran == [1, 4]
        assert not await known(rolled_back)
        assert not await known(forgotten)


async def test_a_savepoint_takes_its_own_jobs_with_it(start: Start[App]) -> None:
    async with start() as app, app.session() as session:
        first = await note.using(session=session).enqueue(n=1)
        async with session.begin_nested() as savepoint:
            gone = await note.using(session=session).enqueue(n=2)
            await savepoint.rollback()
        async with session.begin_nested():
            kept = await note.using(session=session).enqueue(n=3)
        await session.commit()
        assert [await app.result(first), await app.result(kept)] == [1, 3]
        assert not await known(gone)
        assert ran == [1, 3]


async def test_by_name_bound_and_in_bulk_calls_are_part_of_a_transaction(start: Start[App]) -> None:
    async with start() as app:
        async with app.session() as session:
            named = await registry.get_task("note").using(session=session).enqueue(n=1)
            bound = await note.bind(n=2).using(session=session).enqueue()
            calls = [note_elsewhere.bind(n=3), note.using(session=session).bind(n=4), note.bind(n=5)]
            many = await enqueue_many([calls[0].using(session=session), calls[1], calls[2]])
            assert await app.result(many[2]) == 5  # which has no session, and does not wait
            await session.rollback()
            assert await app.rows() == 0
            again = await enqueue_many([call.using(session=session) for call in calls])
            await session.commit()
        assert [await app.result(job) for job in again] == [3, 4, 5]
        assert [await known(job) for job in (named, bound, *many)] == [False, False, False, False, True]


async def test_what_follows_a_call_is_part_of_its_row(start: Start[App]) -> None:
    async with start() as app:
        async with app.session() as session:
            job = await note.using(session=session, on_success=note_elsewhere.bind(n=2)).enqueue(n=1)
            gone = await note.using(session=session, on_success=note_elsewhere.bind(n=4)).enqueue(n=3)
            await session.rollback()
            assert not await known(gone)
            again = await note.using(session=session, on_success=note_elsewhere.bind(n=6)).enqueue(n=5)
            await session.commit()
        assert await app.result(again) == 5
        await eventually(lambda: has_run(5, 6))
        assert not await known(job)


async def test_calls_that_are_gathered_share_a_transaction(start: Start[App]) -> None:
    async with start() as app, app.session() as session:
        jobs = await asyncio.gather(*(note.using(session=session).enqueue(n=n) for n in range(20)))
        await session.commit()
        assert [await app.result(job) for job in jobs] == list(range(20))
        assert sorted(ran) == list(range(20))


async def test_rows_of_one_transaction_keep_their_order_within_queue_and_priority(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        await enqueue_many([note.bind(n=n).using(session=session) for n in range(450)])
        await note.using(session=session, priority=-1).enqueue(n=450)
        jobs = [await note_elsewhere.using(session=session).enqueue(n=n) for n in range(3)]
        await session.commit()
        await eventually(lambda: known(jobs[-1]))
        for label, expected in (("default", [450, *range(450)]), ("other", [0, 1, 2])):
            queue = app.plugin.get_queue(label)
            claimed: list[int] = []
            while job := await queue.dequeue(timeout=1):
                claimed.append((job.kwargs or {})["n"])
            assert claimed == expected


async def test_delays_count_from_the_enqueue_and_hooks_see_the_call_there(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        correlation_id.set("request-7")
        before = datetime.now(UTC)
        delayed = await note.using(session=session, delay=60, tag="a").enqueue(n=1)
        correlation_id.set("somebody else's")
        await asyncio.sleep(0.5)
        await session.commit()
        await eventually(lambda: known(delayed))
        record = await app.plugin.get_queue("default").job(delayed.id.rpartition(":")[2])
        assert record is not None
        assert abs(record.scheduled - (before + timedelta(seconds=60)).timestamp()) < 0.4
        assert record.meta == {"tag": "a", "correlation_id": "request-7"}
        assert await delayed.status() == "scheduled"


async def test_a_key_that_is_taken_when_the_row_is_delivered_makes_no_second_job(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        await note.using(key="k").enqueue(n=1)
        second = await note.using(key="k", session=session).enqueue(n=2)
        await session.commit()
        await eventually(lambda: known(second))
        await eventually(lambda: _none_waiting(app))
        assert await app.plugin.get_queue("default").count("queued") == 1


async def _none_waiting(app: App) -> bool:
    return await app.waiting() == 0


async def test_a_transaction_pays_one_insert_for_each_call_and_nothing_after_the_commit(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        said: list[str] = []
        await session.connection()
        mine = (await session.connection()).sync_connection

        @event.listens_for(app.config.get_engine().sync_engine, "before_cursor_execute")
        def hear(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if connection is mine:
                said.append(statement)

        await note.using(session=session).enqueue(n=1)
        await session.commit()
        assert [statement.partition("(")[0].strip() for statement in said] == [f"INSERT INTO {TABLE}"]
        said.clear()
        mine = (await session.connection()).sync_connection
        await enqueue_many([note.bind(n=n).using(session=session) for n in range(100)])
        await session.commit()
        assert len(said) == 1


async def test_rows_leave_the_outbox_when_their_jobs_are_safe(start: Start[App], redis_server: RedisServer) -> None:
    async with start() as app:
        async with app.session() as session:
            job = await note.using(session=session).enqueue(n=1)
            await session.commit()
        await app.result(job)
        assert await app.rows() == 1  # the broker may still forget it
        await eventually(lambda: _is_empty(app), within=30)
        client: Any = redis_server.client
        (marker,) = client.scan_iter("saq:default:seen:*")
        await eventually(lambda: client.ttl(marker) <= 3600)


async def _is_empty(app: App) -> bool:
    return await app.rows() == 0


# In requests and in tasks


async def test_in_requests_the_session_that_is_open_can_be_the_default(start: Start[App]) -> None:
    jobs: dict[str, str] = {}

    @post("/{how:str}")
    async def enqueue(
        how: FromPath[str], db_session: NamedDependency[AsyncSession], task_queues: NamedDependency[TaskQueues]
    ) -> None:
        jobs["before"] = (await note.enqueue(n=0)).id  # no transaction has begun, so it is part of none
        await db_session.execute(text("SELECT 1"))
        jobs["typed"] = (await note.enqueue(n=1)).id
        jobs["many"] = (await enqueue_many([note.bind(n=2)]))[0].id
        jobs["out"] = (await note.using(session=None).enqueue(n=3)).id
        jobs["by queue"] = (await task_queues.get("default").enqueue("note", n=4)).id
        if how == "commit":
            await db_session.commit()
            jobs["after"] = (await note.enqueue(n=5)).id

    @post("/without")
    async def without() -> None:
        jobs["without"] = (await note.enqueue(n=6)).id

    settings = {"outbox": {"in_requests": True}, "in_process_worker": False}
    async with (
        start(routes=[enqueue, without], **settings) as app,
        AsyncClient(transport=ASGITransport(app.app), base_url="http://test") as client,
    ):
        assert (await client.post("/rollback")).status_code == 201
        at_once = {name for name, id in jobs.items() if await known(registry.job(id))}
        assert at_once == {"before", "out", "by queue"}
        assert await app.rows() == 0
        assert (await client.post("/commit")).status_code == 201
        await eventually(lambda: _all_known(jobs))
        assert (await client.post("/without")).status_code == 201
        assert await known(registry.job(jobs["without"]))
        assert jobs.keys() == {"before", "typed", "many", "out", "by queue", "after", "without"}


async def _all_known(jobs: dict[str, str]) -> bool:
    return all([await known(registry.job(id)) for id in jobs.values()])


async def test_what_a_task_enqueues_by_its_session_appears_only_if_it_succeeds(start: Start[App]) -> None:
    """Attempts 1 and 2 of two jobs fail after they have enqueued; the last one of one of them succeeds."""
    async with start() as app:
        fails = await follow_up.enqueue(n=100, fail=True)
        outcome = await fails.outcome(timeout=30)
        assert outcome.status == "failed"
        assert outcome.attempts == 3
        succeeds = await follow_up.enqueue(n=200)
        child = registry.job(await succeeds.result(timeout=30))
        assert await app.result(child) == 203
        assert ran == [203]


# Crashes

COMMIT_AND_DIE = """
import asyncio, os, signal, sys
from tests.integration.database.test_outbox import make, note

async def main(url: str, broker: str) -> None:
    one = make(url, broker)
    async with one.plugin.attached(), one.session() as session:
        job = await note.using(session=session).enqueue(n=7)
        one.outbox._relay.tell = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        print(job.id, flush=True)
        await session.commit()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_process_committed_that_died_is_delivered_by_a_worker(
    start: Start[App], url: str, redis_server: RedisServer
) -> None:
    async with start() as app:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", COMMIT_AND_DIE, url, redis_server.url],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[3],
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert await app.result(registry.job(done.stdout.strip())) == 7
        assert ran == [7]


async def test_an_outage_of_the_broker_fails_no_transaction_and_its_rows_wait(url: str) -> None:
    server = RedisServer("--appendonly", "yes")
    try:
        ran.clear()
        async with running(url, server.url) as app:
            server.kill()
            async with app.session() as session:
                jobs = [await note.using(session=session).enqueue(n=n) for n in range(3)]
                await session.commit()
            assert await app.waiting() == 3
            server.start()
            assert [await app.result(job) for job in jobs] == [0, 1, 2]
            assert ran == [0, 1, 2]
    finally:
        server.close()


async def test_what_a_broker_forgets_that_it_had_just_got_is_delivered_again(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer("--appendonly", "no")
    try:
        async with running(url, server.url, in_process_worker=False) as app, app.session() as session:
            job = await note.using(session=session).enqueue(n=1)
            await session.commit()
            await eventually(lambda: known(job))
            await eventually(lambda: _none_waiting(app))
            server.kill()
            server.start()
            assert not server.client.exists(job.id)
            async with running(url, server.url) as worker:
                assert await worker.result(job) == 1
                assert "delivered again" in caplog.text
                await eventually(lambda: _is_empty(worker), within=30)
    finally:
        server.close()


async def test_a_row_whose_delivery_was_not_noted_becomes_no_second_job(start: Start[App]) -> None:
    """As after the end of a relay between the two, and as with two relays where rows cannot be locked."""
    ran.clear()
    async with start() as app:
        async with app.session() as session:
            job = await note.using(session=session).enqueue(n=1)
            await session.commit()
        await app.result(job)
        for _ in range(3):
            await app.sql(f"UPDATE {TABLE} SET delivered = NULL, broker = NULL")
            await eventually(lambda: _none_waiting(app))
        await eventually(lambda: _is_empty(app), within=30)
        assert ran == [1]


async def test_several_relays_do_not_disturb_each_other(start: Start[App]) -> None:
    async with start() as app, start(), start():
        jobs: list[JobHandle[int]] = []
        for number in range(0, 60, 3):
            async with app.session() as session:
                calls = [note.bind(n=number + n).using(session=session) for n in range(3)]
                jobs += await enqueue_many(calls)
                await session.commit()
        assert [await app.result(job) for job in jobs] == list(range(60))
        assert sorted(ran) == list(range(60))


@pytest.mark.parametrize("url", DRIVERS[1:], indirect=True)
async def test_a_transaction_that_another_relay_has_is_left_to_it(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        names = [queue.name for queue in app.plugin.get_queues().queues.values()]
        async with app.session() as session:
            await enqueue_many([note.bind(n=n).using(session=session) for n in range(3)])
            app.outbox._relay.tell = lambda _: None  # type: ignore[method-assign, union-attr]  # the test relays by hand
            await session.commit()
        async with app.outbox._rows.waiting(names) as mine:
            assert len(mine.rows) == 3
            async with app.outbox._rows.waiting(names) as others:
                assert others.rows == []
            mine.delivered(mine.rows[:2], "this one")
        async with app.outbox._rows.waiting(names) as rest:
            assert [row.number for row in rest.rows] == [2]


@pytest.mark.parametrize("url", DRIVERS[1:], indirect=True)
async def test_a_relay_that_stands_still_gives_its_transactions_up(
    start: Start[App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_GIVE_UP", text("SET LOCAL idle_in_transaction_session_timeout = 300"))
    async with start(in_process_worker=False) as app:
        async with app.session() as session:
            app.outbox._relay.tell = lambda _: None  # type: ignore[method-assign, union-attr]  # the test relays by hand
            job = await note.using(session=session).enqueue(n=1)
            await session.commit()

        async def stand_still() -> None:
            async with app.outbox._rows.waiting(["default"]) as batch:
                assert len(batch.rows) == 1
                await app.outbox.flush()
                assert not await known(job)
                await eventually(lambda: _flushed(app, job))
                batch.delivered(batch.rows, "too late")

        with pytest.raises(DBAPIError):
            await stand_still()
        assert await app.waiting() == 0


async def _flushed(app: App, job: JobHandle[Any]) -> bool:
    await app.outbox.flush()
    return await known(job)


async def test_a_relay_that_was_frozen_reads_anew_what_it_had_read(
    start: Start[App], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        monkeypatch.setattr(relay, "_FRESH", -1.0)
        await note.using(session=session).enqueue(n=1)
        await session.commit()
        await app.outbox.flush()
        assert await app.waiting() == 1
        monkeypatch.setattr(relay, "_FRESH", 30.0)
        await app.outbox.flush()
        assert await app.waiting() == 0


# What somebody has to decide about


async def test_rows_older_than_the_brokers_memory_of_them_are_parked_and_said(
    start: Start[App], caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as app:
        async with app.session() as session:
            old = await enqueue_many([note.bind(n=n).using(session=session) for n in range(3)])
            await session.execute(text(f"UPDATE {TABLE} SET created = created - 8 * 86400000 WHERE number < 2"))
            await session.commit()
        assert await app.result(old[2]) == 2
        await eventually(lambda: _parked(app, 2))
        assert "2 rows of the outbox are parked" in caplog.text
        assert "doubtful: it has waited for 8.0 days" in caplog.text
        first, second = await app.outbox.parked()
        assert (first.task, first.queue, first.reason.partition(":")[0]) == ("note", "default", "doubtful")
        assert old[0].id.rpartition(":")[2] in first.job
        assert abs(first.parked - first.created - timedelta(days=8)) < timedelta(seconds=30)
        assert await app.outbox.retry([first.id, "no-7"]) == 1
        assert await app.outbox.drop([second.id]) == 1
        assert await app.outbox.drop([second.id]) == 0
        assert await app.result(old[0]) == 0
        assert await app.outbox.parked() == []
        assert not await known(old[1])


async def _parked(app: App, count: int) -> bool:
    return (await app.outbox.counts()).parked == count


async def test_rows_that_cannot_be_read_are_parked_and_hold_nobody_up(start: Start[App]) -> None:
    async with start() as app:
        async with app.session() as session:
            jobs = await enqueue_many([note.bind(n=n).using(session=session) for n in range(3)])
            await session.execute(text(f"UPDATE {TABLE} SET document = '{{}}' WHERE number = 0"))
            await session.commit()
        assert [await app.result(job) for job in jobs[1:]] == [1, 2]
        await eventually(lambda: _parked(app, 1))
        (row,) = await app.outbox.parked()
        assert row.reason.startswith("unreadable: ")


async def test_rows_of_other_apps_are_left_alone_and_counted(start: Start[App]) -> None:
    async with start() as app:
        async with app.session() as session:
            await note.using(session=session).enqueue(n=1)
            await session.execute(text(f"UPDATE {TABLE} SET queue = 'theirs.default'"))
            await session.commit()
        await app.outbox.flush()
        assert (await app.outbox.counts()).foreign == 1


async def test_a_drain_delivers_first_what_is_committed(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app, app.session() as session:
        app.outbox._relay.tell = lambda _: None  # type: ignore[method-assign, union-attr]  # as if the process had died
        await enqueue_many([note.bind(n=n).using(session=session) for n in range(450)])
        await session.commit()
        workers = app.plugin.get_workers(app.app)
        async with app.plugin._working(workers, drain=True) as parts:
            await asyncio.wait_for(parts[-1], 60)
        assert sorted(ran) == list(range(450))


# A broker in the same database


@pytest.mark.parametrize("driver", DRIVERS[1:])
async def test_on_postgres_the_job_itself_is_written_where_the_broker_is_the_database(
    postgres: PostgresServer, driver: str
) -> None:
    ran.clear()
    broker = postgres.create_database()
    migrate(broker, lambda _: None)
    async with running(as_sqlalchemy(broker, driver), broker) as app:
        async with app.session() as session:
            await note.using(session=session, key="k").enqueue(n=1)
            await enqueue_many([note.bind(n=n).using(session=session) for n in range(2, 5)])
            await session.rollback()
        assert await app.sql("SELECT key FROM litestar_tasks_jobs") == []
        async with app.session() as session:
            one = await note.using(session=session, key="k").enqueue(n=5)
            same = await note.using(session=session, key="k").enqueue(n=6)
            many = await enqueue_many([note.bind(n=n).using(session=session) for n in range(7, 10)])
            late = await note.using(session=session, delay=60, priority=3, tag="t").enqueue(n=10)
            assert not await known(one)
            await session.commit()
            assert await known(one)  # no relay is between
            assert await late.status() == "scheduled"
        assert (one.deduplicated, same.deduplicated, same.id) == (False, True, one.id)
        assert [await job.result(timeout=30) for job in (one, *many)] == [5, 7, 8, 9]
        assert ran == [5, 7, 8, 9]
        assert await app.sql("SELECT priority, tag FROM litestar_tasks_jobs WHERE status = 'queued'") == [(3, "t")]
        assert await app.rows() == 0


async def test_unique_calls_take_the_outbox_on_the_brokers_own_database(postgres: PostgresServer) -> None:
    ran.clear()
    broker = postgres.create_database()
    migrate(broker, lambda _: None)
    async with running(as_sqlalchemy(broker, "asyncpg"), broker) as app, app.session() as session:
        plain = await note.using(session=session).enqueue(n=1)
        first = await note.using(session=session, unique=True, delay=1).enqueue(n=2)
        second = await note.using(session=session, unique=True, delay=1).enqueue(n=2)
        assert await app.rows() == 0  # not committed
        await session.commit()
        assert await app.result(plain) == 1
        assert await app.result(first) == 2
        assert not await known(second)
        assert ran == [1, 2]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_follows_a_call_follows_it_on_postgres(postgres: PostgresServer, elsewhere: bool) -> None:
    """Whether the job is written within the transaction, or delivered from another database."""
    ran.clear()
    broker = postgres.create_database()
    migrate(broker, lambda _: None)
    async with running(as_sqlalchemy(postgres.create_database() if elsewhere else broker, "asyncpg"), broker) as app:
        async with app.session() as session:
            await note.using(session=session, on_success=note_elsewhere.bind(n=2)).enqueue(n=1)
            await session.rollback()
            job = await note.using(session=session, on_success=note_elsewhere.bind(n=4)).enqueue(n=3)
            await session.commit()
        assert await app.result(job) == 3
        await eventually(lambda: has_run(3, 4))


async def test_a_user_who_may_not_write_to_the_brokers_table_has_rows_in_the_outbox(postgres: PostgresServer) -> None:
    ran.clear()
    broker = postgres.create_database()
    migrate(broker, lambda _: None)
    database = broker.partition("@/")[2].partition("?")[0]
    postgres.execute(f"CREATE ROLE app_of_{database} LOGIN; GRANT ALL ON SCHEMA public TO app_of_{database}", database)
    url = as_sqlalchemy(broker, "asyncpg").replace("postgres@", f"app_of_{database}@")
    async with running(url, broker) as app:
        async with app.session() as session:
            job = await note.using(session=session).enqueue(n=1)
            await session.commit()
            assert await app.rows() == 1
        assert await app.result(job) == 1


async def test_a_broker_on_postgres_elsewhere_heeds_each_row_once(postgres: PostgresServer, url: str) -> None:
    ran.clear()
    broker = postgres.create_database()
    migrate(broker, lambda _: None)
    async with running(url, broker) as app:
        async with app.session() as session:
            jobs = await enqueue_many([note.bind(n=n).using(session=session) for n in range(3)])
            await session.commit()
        assert [await app.result(job) for job in jobs] == [0, 1, 2]
        await app.sql(f"UPDATE {TABLE} SET delivered = NULL, broker = NULL")
        await eventually(lambda: _is_empty(app), within=30)
        assert ran == [0, 1, 2]


# What is refused, and where


async def test_a_missing_table_is_said_at_start_up_with_the_commands_that_make_it(url: str) -> None:
    one = make(url, "memory://", create_all=False)
    with pytest.raises(StartupError, match=r"make-migrations, then litestar database upgrade") as caught:
        async with one.plugin.attached():
            pytest.fail("it started")
    await one.config.get_engine().dispose()
    assert f"table '{TABLE}' is missing" in str(caught.value)


async def test_a_database_that_is_away_at_start_up_is_waited_for(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    ran.clear()
    url = as_sqlalchemy(postgres.create_database(), "psycopg")
    async with running(url, "memory://"):
        postgres.stop()
    one = make(url, "memory://", create_all=False)
    try:
        async with one.app.lifespan():
            assert "database does not answer" in caplog.text
            job = await note.enqueue(n=1)
            assert await job.result(timeout=30) == 1  # jobs need it no more than the app does
            postgres.start()
            async with one.session() as session:
                job = await note.using(session=session).enqueue(n=2)
                await session.commit()
            assert await one.result(job) == 2
    finally:
        await one.config.get_engine().dispose()
        if postgres._process is not None and postgres._process.poll() is not None:
            postgres.start()


async def test_a_session_of_another_database_is_refused_with_both(start: Start[App], tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.sqlite3'}")
    async with start() as app:
        async with AsyncSession(engine) as session:
            with pytest.raises(ConfigurationError, match=r"one of sqlite.*other\.sqlite3, and the outbox is in .*"):
                await note.using(session=session).enqueue(n=1)
        async with AsyncSession(create_async_engine(app.config.get_engine().url)) as session:
            job = await note.using(session=session).enqueue(n=2)  # an engine of its own, of the same database
            await session.commit()
            assert await app.result(job) == 2
            await session.bind.dispose()  # type: ignore[union-attr]  # the engine
    await engine.dispose()


async def test_a_session_is_refused_where_it_cannot_be_used(start: Start[App]) -> None:
    async with start() as app, app.session() as session:
        with pytest.raises(ConfigurationError, match="a session cannot be used from a thread"):
            await asyncio.to_thread(note.using(session=session).bind(n=1).enqueue_sync)
        with pytest.raises(ConfigurationError, match=r"session is .*; give SQLAlchemy's AsyncSession"):
            note.using(session=session.sync_session)  # type: ignore[typeddict-item]  # what a user may try
    without = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://"))
    async with without.attached():
        with pytest.raises(ConfigurationError, match=r"TasksConfig\(outbox=OutboxConfig\(\)\)"):
            await note.using(session=session).enqueue(n=1)
        with pytest.raises(ConfigurationError, match="the app has no outbox"):
            without.get_outbox()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+aiosqlite:///:memory:", "an SQLite in memory, whose one connection all transactions would share"),
        ("mysql+asyncmy://app:s3cret@db/app", r"the outbox is not tested on mysql \(mysql\+asyncmy\); use Postgres"),
    ],
)
async def test_databases_without_what_it_takes_are_refused_at_start_up(url: str, message: str) -> None:
    one = make("sqlite+aiosqlite:///:memory:", "memory://", create_all=False)
    if url.startswith("mysql"):  # its driver is not installed
        one.config.engine_instance = cast("Any", FakeEngine(make_url(url)))
    with pytest.raises(StartupError, match=message):
        one.plugin.check(one.app)


class FakeEngine:
    """As much of an engine as says what its database is."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.dialect = SimpleNamespace(name=url.get_backend_name())


def test_an_app_without_that_session_is_refused_with_those_it_has() -> None:
    with pytest.raises(
        ConfigurationError, match=r"as 'session', and it injects none of that name .it injects 'db_session'"
    ):
        make("sqlite+aiosqlite:///x", "memory://", outbox={"session": "session"})
    with pytest.raises(ConfigurationError, match="it has no SQLAlchemyPlugin"):
        Litestar(plugins=[TasksPlugin(TasksConfig(registry=registry, outbox=OutboxConfig()))])


def test_names_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="the outbox's table is called 'a b'"):
        OutboxConfig(table="a b")
    with pytest.raises(ConfigurationError, match="the outbox's session is called 'db session'"):
        OutboxConfig(session="db session")
    metadata = MetaData()
    Table("taken", metadata, Column("id", Integer))
    with pytest.raises(ConfigurationError, match="the app has a table 'taken' of its own"):
        outbox_table(metadata, "taken")


async def test_the_table_has_the_name_that_is_asked_for(start: Start[App]) -> None:
    async with start(outbox={"table": "sent_soon"}) as app, app.session() as session:
        job = await note.using(session=session).enqueue(n=1)
        assert (await session.execute(text("SELECT task FROM sent_soon"))).scalar_one() == "note"
        await session.commit()
        assert await app.result(job) == 1


APP = """
from advanced_alchemy.extensions.litestar import AlembicAsyncConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from litestar_tasks import OutboxConfig, Registry, TasksConfig, TasksPlugin

registry = Registry()

@registry.task
async def hello() -> None: ...

database = SQLAlchemyAsyncConfig(
    connection_string="sqlite+aiosqlite:///app.sqlite3",
    alembic_config=AlembicAsyncConfig(script_location="migrations", script_config="migrations/alembic.ini"),
)
tasks = TasksConfig(registry=registry, broker_url="memory://", outbox=OutboxConfig())
app = Litestar(plugins=[TasksPlugin(tasks), SQLAlchemyPlugin(database)])
"""


def test_the_commands_that_the_message_names_make_the_table(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)

    (missing, told), *made, shown = litestar(
        tmp_path,
        "main:app",
        ("tasks", "outbox"),
        ("database", "init", "--no-prompt", "migrations"),
        ("database", "make-migrations", "--no-prompt", "-m", "outbox"),
        ("database", "upgrade", "--no-prompt"),
        ("tasks", "outbox"),
    )
    assert missing != 0
    assert "litestar database make-migrations, then litestar database upgrade" in told
    assert [code for code, _ in made] == [0, 0, 0], made
    assert shown[0] == 0, shown
    assert shown[1].splitlines()[-1] == "waiting 0, delivered 0, parked 0, of queues that this app does not have 0"
    row = f"INSERT INTO {TABLE} VALUES ('t', 0, 'default', 'hello', '{{}}', 0, 0, NULL, NULL, 1, 'refused: x')"
    with sqlite3.connect(tmp_path / "app.sqlite3") as connection:
        connection.execute(row)
    connection.close()
    (_, listed), (_, dropped) = litestar(
        tmp_path, "main:app", ("tasks", "outbox"), ("tasks", "outbox", "--drop", "t-0", "--drop", "t-1")
    )
    assert "t-0  default  hello  1970-01-01 00:00  refused: x" in listed
    assert "1 of 2 rows were removed" in dropped


def test_importing_the_library_loads_no_database() -> None:
    source = """
import sys
for name in ("sqlalchemy", "advanced_alchemy"):
    sys.modules[name] = None
import litestar_tasks
litestar_tasks.TasksConfig(registry=litestar_tasks.Registry(), outbox=litestar_tasks.OutboxConfig())
plugin = litestar_tasks.TasksPlugin
try:
    import litestar
    litestar.Litestar(plugins=[plugin(litestar_tasks.TasksConfig(
        registry=litestar_tasks.Registry(), outbox=litestar_tasks.OutboxConfig()))])
except litestar_tasks.ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "install litestar-tasks[sqlalchemy]" in done.stdout
