"""What became of jobs, in the app's own database: real databases, real brokers, real drivers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from types import SimpleNamespace
from typing import Any, cast

import pytest
from httpx import ASGITransport, AsyncClient
from litestar import Litestar, get
from litestar.di import NamedDependency
from saq.job import Job
from sqlalchemy import Column, Integer, MetaData, Table, event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from litestar_tasks import (
    INJECTED,
    ConfigurationError,
    Discard,
    HistoryConfig,
    JobError,
    JobHandle,
    JobNotFoundError,
    PayloadError,
    Registry,
    Retry,
    Secret,
    Snooze,
    StartupError,
    TasksConfig,
    TasksPlugin,
    UnknownTaskError,
    correlation_id,
    enqueue_many,
)
from litestar_tasks.outbox.history import HistoryJob, JobHistory, history_tables, recorder
from litestar_tasks.queues.cursors import to_text
from litestar_tasks.queues.operations import JobFilter
from litestar_tasks.queues.postgres.migrations import migrate
from tests.integration.conftest import eventually
from tests.integration.database.conftest import DatabaseApp, Start, as_sqlalchemy, litestar, make_app, serving
from tests.servers import PostgresServer, RedisServer

TABLE = "litestar_tasks_history"
SECRET = "hunter2-is-what-nobody-reads"

registry = Registry("test", allow_local=True)


@registry.task
async def double(*, n: int) -> int:
    return 2 * n


@registry.task(queue="mail", max_attempts=3, backoff=lambda _: 0)
async def unsteady(*, until: int = 99) -> str:
    attempt = counts["unsteady"] = counts.get("unsteady", 0) + 1
    if attempt < until:
        raise ValueError(f"the {attempt}. time, password={SECRET}")
    return "at last"


@registry.task
async def pointless() -> None:
    raise Discard("nobody wants it")


@registry.task
async def sleepy() -> str:
    counts["sleepy"] = counts.get("sleepy", 0) + 1
    if counts["sleepy"] < 3:
        raise Snooze(delay=0.01)
    return "awake"


@registry.task
async def wait_for_it() -> None:
    await asyncio.sleep(300)


@registry.task
async def sign_in(*, user: str, password: str, profile: dict[str, str] | None = None) -> dict[str, str]:
    return {"user": user, "token": password}


@registry.task
async def unlock(*, pin: Secret[str]) -> int:
    unlocked.append(pin)
    return len(pin)


@registry.task
async def many(*, shape: Any) -> list[Any]:
    return [shape] * 900


@registry.task
async def look_back(*, id: str, job_history: JobHistory = INJECTED) -> str:
    return (await job_history.job(id)).task


counts: dict[str, int] = {}
unlocked: list[str] = []


class App(DatabaseApp):
    """One process's app, and what its history holds."""

    @property
    def history(self) -> JobHistory:
        return self.plugin.get_history()

    async def recorded(self, job: JobHandle[Any], status: str) -> HistoryJob:
        """What is recorded of a job, once that says that it stands there."""

        async def is_there() -> bool:
            try:
                return (await self.history.job(job.id)).status == status
            except JobNotFoundError:
                return False

        await eventually(is_there)
        return await self.history.job(job.id)


def make(url: str, broker: str, **options: Any) -> App:
    options["history"] = HistoryConfig(**options.pop("history", {}))
    defaults = {"registry": registry, "secret_keys": ["A" * 43 + "="]}
    return make_app(App, url, broker, bind_key="history-tests", **{**defaults, **options})


def running(url: str, broker: str, **options: Any) -> AbstractAsyncContextManager[App]:
    return serving(make(url, broker, **options))


@pytest.fixture
def start(url: str, redis_server: RedisServer) -> Start[App]:
    """Starts an app with a history and a worker of its own, on an empty broker."""
    redis_server.client.flushall()
    counts.clear()
    return lambda **options: running(url, redis_server.url, **options)


# What is recorded


async def test_a_job_is_recorded_when_it_is_enqueued_and_when_it_has_ended(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        token = correlation_id.set("request-7")
        job = await double.using(tag="sums", priority=3).enqueue(n=21)
        correlation_id.reset(token)
        waiting = await app.recorded(job, "queued")
        assert (waiting.task, waiting.queue, waiting.arguments) == ("double", "default", {"n": 21})
        assert (waiting.tag, waiting.correlation_id, waiting.priority) == ("sums", "request-7", 3)
        assert (waiting.started, waiting.ended, waiting.attempts, waiting.parent) == (None, None, (), None)
        later = await double.using(delay=600).enqueue(n=1)
        await app.recorded(later, "scheduled")
    async with start_again(start) as app:
        ended = await app.recorded(job, "complete")
        outcome = await double.job(job.id).outcome(timeout=30)
        assert (ended.result, ended.attempted, ended.error) == ("42", 1, None)
        assert (ended.started, ended.ended, ended.worker) == (outcome.started, outcome.ended, outcome.worker)
        assert ended.enqueued == waiting.enqueued
        assert ended.duration is not None
        assert ended.duration >= timedelta()
        (attempt,) = ended.attempts
        assert (attempt.outcome, attempt.started, attempt.worker) == ("complete", ended.started, ended.worker)
        assert attempt.duration == ended.duration


def start_again(start: Start[App]) -> AbstractAsyncContextManager[App]:
    """Another process, as far as the database and the broker can tell; nothing is flushed in between."""
    return start()


async def test_each_attempt_is_recorded_with_what_it_raised(start: Start[App]) -> None:
    async with start() as app:
        job = await unsteady.enqueue(until=3)
        ended = await app.recorded(job, "complete")
        assert [one.outcome for one in ended.attempts] == ["retry", "retry", "complete"]
        first = ended.attempts[0]
        assert (first.error_type, first.error) == ("ValueError", "ValueError: the 1. time, password=***")
        assert first.traceback is not None
        assert first.traceback.startswith("Traceback")
        assert ended.attempted == 3
        assert ended.result == '"at last"'


async def test_every_way_to_end_is_recorded(start: Start[App]) -> None:
    async with start() as app:
        failed = await app.recorded(await unsteady.enqueue(), "failed")
        assert (failed.error_type, failed.error) == ("ValueError", "ValueError: the 3. time, password=***")
        assert failed.traceback is not None
        assert failed.attempts[-1].traceback == failed.traceback
        assert [one.outcome for one in failed.attempts] == ["retry", "retry", "failed"]
        discarded = await app.recorded(await pointless.enqueue(), "aborted")
        assert (discarded.reason, discarded.error) == ("discarded", "nobody wants it")
        awake = await app.recorded(await sleepy.enqueue(), "complete")
        assert [(one.outcome, one.times) for one in awake.attempts] == [("snooze", 2), ("complete", 1)]
        job = await wait_for_it.enqueue()
        await eventually(lambda: has_status(job, "active"))
        assert await job.abort("no more")
        assert (await app.recorded(job, "aborted")).error == "no more"
        queue = app.plugin.get_queue("default")
        await queue.pause()
        late = await double.using(expires=0.01).enqueue(n=1)
        await asyncio.sleep(0.02)
        await queue.resume()
        assert (await late.outcome(timeout=30)).reason == "expired"
        assert (await app.recorded(late, "aborted")).reason == "expired"


async def has_status(job: JobHandle[Any], status: str) -> bool:
    return await job.status() == status


async def test_what_ends_without_a_worker_is_recorded_by_who_ends_it(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        job = await double.using(delay=600).enqueue(n=1)
        await app.recorded(job, "scheduled")
        assert await job.abort("thought better of it")
        aborted = await app.recorded(job, "aborted")
        assert (aborted.error, aborted.started) == ("thought better of it", None)


async def test_a_record_that_nobody_can_read_is_recorded_as_failed(
    start: Start[App], redis_server: RedisServer
) -> None:
    async with start(in_process_worker=False) as app:
        job = await double.enqueue(n=1)
        await app.history.flush()
        redis_server.client.set(job.id, b"{")
    async with start_again(start) as app:

        async def quarantined() -> bool:
            return any("undecodable" in (one.error or "") for one in (await app.history.search(status="failed")).jobs)

        await eventually(quarantined)


@pytest.mark.parametrize("broker", ["memory", "postgres"])
async def test_other_brokers_record_the_same(broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    address = "memory://"
    if broker == "postgres":
        address = request.getfixturevalue("postgres").create_database()
        await asyncio.to_thread(migrate, address, lambda _: None)
    counts.clear()
    async with running(f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}", address) as app:
        jobs = [*await enqueue_many([double.bind(n=n) for n in range(3)]), await unsteady.enqueue(until=2)]
        for job in jobs:
            assert (await app.recorded(job, "complete")).attempted in (1, 2)
        waiting = await double.using(delay=600).enqueue(n=1)
        assert await waiting.abort("no")
        assert (await app.recorded(waiting, "aborted")).error == "no"
        assert len((await app.history.search()).jobs) == 5


@pytest.mark.parametrize("broker", ["redis", "memory", "postgres"])
async def test_what_an_operator_ends_in_bulk_is_recorded_as_such(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = "memory://"
    if broker == "postgres":
        address = request.getfixturevalue("postgres").create_database()
        await asyncio.to_thread(migrate, address, lambda _: None)
    elif broker == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        address = server.url
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}"
    async with running(url, address, in_process_worker=False) as app:
        queue = app.plugin.get_queue("default")
        jobs = await enqueue_many([double.using(tag="a" if n < 3 else None).bind(n=n) for n in range(120)])
        later = await double.using(delay=600, tag="a").enqueue(n=120)
        for state in ("queued", "scheduled"):
            step = await queue.bulk("abort", JobFilter(state=state, tag="a"))
            assert step.done == (3 if state == "queued" else 1)
        for job in (*jobs[:3], later):
            aborted = await app.recorded(job, "aborted")
            assert (aborted.error, aborted.started) == ("aborted with others by an operator", None)
            assert aborted.ended is not None
            assert [one.outcome for one in aborted.attempts] == ["aborted"]
        delayed = await double.using(delay=600).enqueue(n=121)
        assert await queue.purge() == 118
        for job in (*jobs[3:], delayed):
            assert (await app.recorded(job, "aborted")).error == "purged by an operator"
        past = await app.history.job(later.id)
        step = await queue.bulk("delete", JobFilter(state="aborted"))
        assert step.done == 4
        await app.history.flush()
        assert await app.history.job(later.id) == past  # the history outlasts the broker's records
        assert await app.history.gaps() == []


async def test_each_life_of_a_key_is_a_row_of_its_own(start: Start[App]) -> None:
    async with start() as app:
        ids: set[str] = set()
        for n in range(3):
            job = await double.using(key="the-one").enqueue(n=n)
            ids.add(job.id)
            await job.result(timeout=30)
            await app.recorded(job, "complete")
        await eventually(lambda: has_rows(app, 3))
        assert len(ids) == 1
        assert (await app.history.job(job.id)).arguments == {"n": 2}
        assert [one.arguments["n"] for one in (await app.history.search()).jobs] == [2, 1, 0]


async def has_rows(app: App, count: int) -> bool:
    return bool((await app.sql(f"SELECT count(*) FROM {TABLE}"))[0][0] == count)


async def test_what_comes_late_does_not_overwrite_what_is_further_on(start: Start[App]) -> None:
    async with start() as app:
        job = await double.enqueue(n=1)
        ended = await app.recorded(job, "complete")
        queue = app.plugin.get_queue("default")
        record = await queue.job(job.id.rpartition(":")[2])
        assert record is not None
        queue.instrument(record, "enqueued")  # another process's, which was slow
        await app.history.flush()
        assert await app.history.job(job.id) == ended


# What is not


async def test_nothing_secret_is_stored(start: Start[App], url: str) -> None:
    async with start() as app:
        job = await sign_in.enqueue(user="ann", password=SECRET, profile={"apiKey": SECRET, "note": f"token={SECRET}"})
        ended = await app.recorded(job, "complete")
        failed = await app.recorded(await unsteady.enqueue(), "failed")
        assert ended.arguments == {"user": "ann", "password": "***", "profile": {"apiKey": "***", "note": "token=***"}}
        assert ended.withheld == ("password", "profile")
        assert ended.result == '{"user":"ann","token":"***"}'
        assert "password=***" in str(failed.traceback)
        assert SECRET not in str(await app.sql(f"SELECT * FROM {TABLE}"))
    if url.startswith("sqlite"):
        for file in Path(make_url(url).database or "").parent.iterdir():
            assert SECRET.encode() not in file.read_bytes()


async def test_what_is_too_long_is_cut_and_what_no_database_holds_is_replaced(start: Start[App]) -> None:
    @registry.task(name="verbose")
    async def verbose(*, text: str, short: str) -> str:
        raise ValueError(f"{text}\ud800")

    async with start() as app:
        job = await verbose.using(tag="a\0b").enqueue(text="x\0" + "y" * 100_000, short="kept")
        failed = await app.recorded(job, "failed")
        assert failed.withheld == ("text",)
        assert failed.arguments["short"] == "kept"
        assert failed.tag == "a\ufffdb"
        (row,) = await app.sql(f"SELECT * FROM {TABLE}")
        assert len(str(row)) < 40_000
        again = await app.recorded(await double.enqueue(n=1), "complete")
        assert again.withheld == ()


# The database is away


async def test_an_outage_of_the_database_stops_no_job_and_its_gap_is_recorded(
    start_postgres: Callable[[], PostgresServer],
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis_server.client.flushall()
    monkeypatch.setattr(recorder, "_LONGEST_PAUSE", 0.5)
    server = start_postgres()
    url = as_sqlalchemy(server.create_database(), "asyncpg")
    caplog.set_level(logging.INFO, "litestar_tasks.history")
    async with running(url, redis_server.url, history={"buffer": 20}) as app:
        await app.recorded(await double.enqueue(n=1), "complete")
        server.kill()
        jobs = await enqueue_many([double.bind(n=n) for n in range(50)])
        assert [await job.result(timeout=30) for job in jobs] == [2 * n for n in range(50)]
        await eventually(lambda: len(said(caplog, "does not answer")) > 0)
        assert [await one.result(timeout=30) for one in [await double.enqueue(n=4)]] == [8]
        server.start()

        async def gap_is_there() -> bool:
            try:
                return bool(await app.history.gaps())
            except Exception:  # whichever the driver raises until the server is up
                return False

        await eventually(gap_is_there)
        (gap, *_) = await app.history.gaps()
        assert gap.lost > 0
        assert gap.since <= gap.until <= datetime.now(UTC)
        assert str(os.getpid()) in gap.process
        assert gap.reason
        known = (await app.history.search(limit=500)).jobs
        assert len(known) == 21
        await app.recorded(await double.enqueue(n=5), "complete")
    assert len(said(caplog, "does not answer")) == 1
    assert len(said(caplog, "answers again")) == 1


def said(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if what in one.getMessage()]


async def test_a_database_that_hangs_stops_no_job_and_no_shutdown(
    start_postgres: Callable[[], PostgresServer], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client.flushall()
    server = start_postgres()
    url = as_sqlalchemy(server.create_database(), "psycopg")
    one = make(url, redis_server.url)
    async with asyncio.timeout(60):
        async with one.app.lifespan():
            await one.recorded(await double.enqueue(n=1), "complete")
            server.freeze()
            jobs = await enqueue_many([double.bind(n=n) for n in range(50)])
            assert [await job.result(timeout=30) for job in jobs] == [2 * n for n in range(50)]
        server.thaw()
    assert len(said(caplog, "the history lacks 50 changes of jobs")) == 1


async def test_a_database_that_is_away_at_the_start_is_waited_for(
    start_postgres: Callable[[], PostgresServer], redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    server = await asyncio.to_thread(start_postgres)
    url = as_sqlalchemy(server.create_database(), "asyncpg")
    async with running(url, redis_server.url):
        pass  # makes the tables
    await asyncio.to_thread(server.stop)
    async with running(url, redis_server.url, create_all=False) as app:
        job = await double.enqueue(n=2)
        assert await job.result(timeout=60) == 4
        await asyncio.to_thread(server.start)

        async def is_there() -> bool:
            try:
                return (await app.history.job(job.id)).status == "complete"
            except JobNotFoundError:  # not recorded yet
                return False

        await eventually(is_there, within=60)
        assert await app.history.gaps() == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_database_that_refuses_connections_at_the_start_is_waited_for(
    driver: str, postgres: PostgresServer, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client.flushall()
    url = as_sqlalchemy(postgres.url("is_to_come"), driver)
    async with running(url, redis_server.url, create_all=False) as app:
        assert len(said(caplog, "'is_to_come' does not exist".replace("'", '"'))) == 1
        job = await double.enqueue(n=2)
        assert await job.result(timeout=30) == 4
        await asyncio.to_thread(postgres.execute, "CREATE DATABASE is_to_come")
        try:
            async with app.config.get_engine().begin() as connection:
                await connection.run_sync(cast("MetaData", app.config.metadata).create_all)
            assert (await app.recorded(job, "complete")).result == "4"
            assert await app.history.gaps() == []
        finally:
            await app.config.get_engine().dispose()
            await asyncio.to_thread(postgres.execute, "DROP DATABASE is_to_come WITH (FORCE)")
    assert "unforeseen" not in caplog.text


async def test_a_row_that_the_database_refuses_is_a_gap_and_takes_no_other_with_it(
    postgres: PostgresServer, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client.flushall()
    url = as_sqlalchemy(postgres.create_database(), "psycopg")
    async with running(url, redis_server.url, in_process_worker=False) as app:
        await app.sql(f"ALTER TABLE {TABLE} ADD CONSTRAINT small CHECK (priority < 50)")
        jobs = await enqueue_many([double.using(priority=n).bind(n=n) for n in (1, 60, 2)])
        await app.history.flush()
        assert [one.priority for one in (await app.history.search()).jobs] in ([2, 1], [1, 2])
        (gap,) = await app.history.gaps()
        assert gap.lost == 1
        assert "small" in gap.reason
        jobs.append(await double.using(key=token_hex(2_000)).enqueue(n=3))  # no index holds that
        jobs.append(await double.enqueue(n=4))
        await app.history.flush()
        assert len(await app.history.gaps()) == 2
        assert (await app.history.job(jobs[4].id)).arguments == {"n": 4}
    for job in (jobs[1], jobs[3]):
        assert len(said(caplog, f"cannot record job {job.id}")) == 1


# Search


async def test_jobs_are_found_by_each_criterion_and_by_all_together(start: Start[App]) -> None:
    async with start() as app:
        before = datetime.now(UTC)
        first = await double.using(tag="a").enqueue(n=1)
        await app.recorded(first, "complete")
        second = await unsteady.using(tag="b").enqueue()
        await app.recorded(second, "failed")
        third = await sign_in.using(tag="b").enqueue(user="Ann 100%", password="x")
        await app.recorded(third, "complete")
        middle = (await app.history.job(second.id)).enqueued

        async def found(**criteria: Any) -> list[str]:
            return [one.id for one in (await app.history.search(**criteria)).jobs]

        everything = [third.id, second.id, first.id]
        assert await found() == everything
        assert await found(task="unsteady") == [second.id]
        assert await found(queue="mail") == [second.id]
        assert await found(status="complete") == [third.id, first.id]
        assert await found(tag="b") == [third.id, second.id]
        assert await found(since=middle) in ([third.id, second.id], everything)
        assert await found(until=middle) in ([first.id], [])
        assert (
            await found(since=before - timedelta(seconds=1), until=datetime.now(UTC) + timedelta(days=1)) == everything
        )
        assert await found(since=datetime.now(UTC) + timedelta(days=1)) == []
        assert await found(text="ann 100%") == [third.id]
        assert await found(text="10_%") == []
        assert await found(text="VALUEERROR") == [second.id]
        assert await found(text=first.id) == [first.id]
        assert await found(task="sign_in", tag="b", status="complete", text="ann") == [third.id]
        assert await found(task="sign_in", tag="a") == []


async def test_pages_hold_each_job_once_also_while_others_come(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        jobs = await enqueue_many([double.bind(n=n) for n in range(25)])  # most of one millisecond
        await app.history.flush()
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await app.history.search(task="double", limit=7, cursor=cursor)
            seen += [one.id for one in page.jobs]
            await double.enqueue(n=99)
            await app.history.flush()
            if (cursor := page.cursor) is None:
                break
        assert sorted(seen) == sorted(job.id for job in jobs)
        assert (await app.history.search(limit=500)).cursor is None


async def test_searches_that_cannot_be_are_refused(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        for wrong in ({"limit": 0}, {"limit": 501}, {"cursor": "nonsense"}, {"since": datetime(2026, 1, 1)}):
            with pytest.raises(ConfigurationError, match=r"limit|cursor|time zone"):
                await app.history.search(**wrong)
        with pytest.raises(JobNotFoundError):
            await app.history.job("saq:job:default:nobody")


@pytest.mark.parametrize(
    ("criteria", "index"),
    [
        ({}, "enqueued"),
        ({"status": "complete"}, "enqueued"),
        ({"status": "failed"}, "status"),
        ({"task": "double"}, "task"),
        ({"tag": "x"}, "tag"),
    ],
)
async def test_searches_walk_along_an_index(start: Start[App], criteria: dict[str, Any], index: str) -> None:
    async with start(in_process_worker=False) as app:
        engine = app.config.get_engine()
        asked: list[tuple[str, Any]] = []

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        cursor = to_text([int(datetime.now(UTC).timestamp() * 1000), "saq:job:default:x"])
        await app.history.search(**criteria, cursor=cursor)
        statement, parameters = asked[-1]
        explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
        async with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                for other in ("seqscan", "bitmapscan", "sort"):  # which are better in a table that is empty
                    await connection.execute(text(f"SET LOCAL enable_{other} = off"))
            plan = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            lines = "\n".join(str(line) for line in plan)
    assert f"ix_{TABLE}_{index}" in lines
    # Only what was enqueued in the same millisecond is still to be put in order.
    assert "Incremental Sort" in lines or re.search("(RIGHT PART|LAST TERM) OF ORDER BY", lines)


async def test_routes_and_tasks_are_given_the_history(start: Start[App]) -> None:
    @get("/jobs")
    async def jobs(job_history: NamedDependency[JobHistory]) -> list[str]:
        return [one.task for one in (await job_history.search()).jobs]

    async with start(routes=[jobs]) as app:
        job = await double.enqueue(n=1)
        await app.recorded(job, "complete")
        async with AsyncClient(transport=ASGITransport(cast("Any", app.app)), base_url="http://test") as client:
            assert (await client.get("/jobs")).json() == ["double"]
        assert await (await look_back.enqueue(id=job.id)).result(timeout=30) == "double"


# Run again


async def test_a_job_that_the_broker_has_forgotten_is_run_again(start: Start[App], redis_server: RedisServer) -> None:
    async with start() as app:
        job = await double.using(tag="sums", priority=7).enqueue(n=21)
        await app.recorded(job, "complete")
        redis_server.client.delete(job.id)
        with pytest.raises(JobNotFoundError):
            await job.status()
        again = await app.history.rerun(job.id)
        assert await again.result(timeout=30) == 42
        child = await app.recorded(again, "complete")
        assert (child.parent, child.tag, child.priority, child.arguments) == (job.id, "sums", 7, {"n": 21})
        assert again.id != job.id
        assert await (await app.history.rerun(job.id, n=1)).result(timeout=30) == 2


async def test_a_job_that_was_lost_before_it_ran_is_run_from_the_history(
    start: Start[App], redis_server: RedisServer
) -> None:
    async with start(in_process_worker=False) as app:
        job = await double.enqueue(n=4)
        await app.recorded(job, "queued")
        with pytest.raises(JobError, match="has not ended"):
            await app.history.rerun(job.id)
        redis_server.client.flushall()
    async with start_again(start) as app:
        assert await (await app.history.rerun(job.id)).result(timeout=30) == 8


async def test_a_rerun_is_checked_against_todays_task(start: Start[App]) -> None:
    async with start() as app:
        job = await sign_in.enqueue(user="ann", password=SECRET)
        await app.recorded(job, "complete")
        with pytest.raises(PayloadError, match="does not hold password") as caught:
            await app.history.rerun(job.id)
        assert SECRET not in str(caught.value)
        again = await app.history.rerun(job.id, password="new")
        assert await again.result(timeout=30) == {"user": "ann", "token": "new"}
        with pytest.raises(JobNotFoundError):
            await app.history.rerun("saq:job:default:nobody")
        other = await double.enqueue(n=1)
        await app.recorded(other, "complete")
        await app.sql(f'UPDATE {TABLE} SET arguments = \'{{"n":"x"}}\' WHERE id = :id', id=other.id)
        with pytest.raises(PayloadError, match="'n'"):
            await app.history.rerun(other.id)
        await app.sql(f"UPDATE {TABLE} SET task = 'dubble' WHERE id = :id", id=other.id)
        with pytest.raises(UnknownTaskError, match="double"):
            await app.history.rerun(other.id)


async def test_a_rerun_has_the_secrets_of_the_job_and_of_the_life_that_is_meant(start: Start) -> None:
    async with start() as app:
        ids: set[str] = set()
        for pin in ("1111", "2222"):
            job = await unlock.using(key="the-door").enqueue(pin=pin)
            ids.add(job.id)
            assert await job.result(timeout=30) == len(pin)
            await app.history.flush()
            await app.plugin.get_queue("default").delete("the-door")
        (id,) = ids
        await app.recorded(job, "complete")
        last, first = await app.history.lives(id)
        assert last == await app.history.job(last.id)
        assert first.enqueued < last.enqueued
        assert "1111" not in str(first)
        unlocked.clear()
        for life in (first, last, last.id):
            await (await app.history.rerun(life)).result(timeout=30)
        assert unlocked == ["1111", "2222", "2222"]
        assert await app.history.lives("saq:job:default:nobody") == []


async def test_a_result_that_is_cut_is_json_all_the_same(start: Start) -> None:
    async with start() as app:
        for shape in ({"n": 1}, 1, "x" * 99, [[[]]], '"' * 50):
            job = await many.enqueue(shape=shape)
            ended = await app.recorded(job, "complete")
            assert ended.result is not None
            assert len(ended.result) <= 2_000
            assert json.loads(ended.result)[0] == shape


# Retention


async def test_what_is_too_old_or_too_much_is_removed_in_bounded_steps(
    start: Start[App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_TIDY", 0.1)
    monkeypatch.setattr("litestar_tasks.outbox.history.rows._DELETED", 4)
    async with start(in_process_worker=False) as app:
        await enqueue_many([double.bind(n=n) for n in range(30)])
        await app.history.flush()
        for n in range(30):  # a second apart, the first ten a year old
            old = 31_536_000_000 if n < 10 else 0
            await app.sql(
                f"UPDATE {TABLE} SET changed = changed + :n - :old, enqueued = enqueued + :n - :old "
                "WHERE arguments = :which",
                n=n * 1000,
                old=old,
                which=json.dumps({"n": n}, separators=(",", ":")),
            )
        gap = {"id": "g", "since": 1, "until": 2, "lost": 3, "process": "p", "reason": "r"}
        await app.sql(f"INSERT INTO {TABLE}_gaps VALUES (:id, :since, :until, :lost, :process, :reason)", **gap)
        assert await has_rows(app, 30)  # this process is no worker, and removes nothing
    async with start(history={"keep": timedelta(days=30), "keep_jobs": None}, queue_configs=[]) as app:
        for queue in app.plugin.get_queues().queues.values():
            await queue.pause()
        await eventually(lambda: has_no_gaps(app))
        await eventually(lambda: oldest_is_recent(app))
    async with start(history={"keep": None, "keep_jobs": 5}) as app:

        async def few() -> bool:
            return bool((await app.sql(f"SELECT count(*) FROM {TABLE}"))[0][0] <= 5)

        await eventually(few)
        assert (await app.sql(f"SELECT count(*) FROM {TABLE}"))[0][0] >= 4


async def has_no_gaps(app: App) -> bool:
    return await app.history.gaps() == []


async def oldest_is_recent(app: App) -> bool:
    ((oldest,),) = await app.sql(f"SELECT min(changed) FROM {TABLE}")
    return bool(oldest > (datetime.now(UTC) - timedelta(days=30)).timestamp() * 1000)


# Processes


async def test_several_workers_record_beside_each_other(url: str, redis_server: RedisServer) -> None:
    redis_server.client.flushall()
    counts.clear()
    async with running(url, redis_server.url) as app, running(url, redis_server.url, registry=registry) as other:
        jobs = await enqueue_many([double.bind(n=n) for n in range(300)])
        for job in jobs:
            await job.result(timeout=30)

        async def complete() -> bool:
            return len((await app.history.search(status="complete", limit=500)).jobs) == 300

        await eventually(complete)
        assert await has_rows(other, 300)
        assert await app.history.gaps() == await other.history.gaps() == []


async def test_a_worker_writes_what_it_heard_before_it_stops(start: Start[App]) -> None:
    async with start() as app:
        job = await double.enqueue(n=1)
        await job.result(timeout=30)
    async with start_again(start) as app:
        assert (await app.history.job(job.id)).status == "complete"


async def test_without_a_history_nobody_listens() -> None:
    own = Registry("own", allow_local=True)
    task = own.task(double.fn)
    plugin = TasksPlugin(TasksConfig(registry=own, broker_url="memory://", dashboard=None, in_process_worker=True))
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        assert all(queue.listeners == () for queue in plugin._brokers[asyncio.get_running_loop()][0].queues.values())
        assert await (await task.enqueue(n=1)).result(timeout=30) == 2
        with pytest.raises(ConfigurationError, match="has no history"):
            plugin.get_history()


# Start-up


async def test_a_missing_table_is_said_at_start_up_with_the_commands_that_make_it(url: str) -> None:
    one = make(url, "memory://", create_all=False)
    try:
        with pytest.raises(StartupError, match=r"'litestar_tasks_history' is missing[\s\S]*litestar database upgrade"):
            async with one.plugin.attached():
                pass
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(history_tables(MetaData())[0].create)
        await engine.dispose()
        with pytest.raises(StartupError, match=r"'litestar_tasks_history_gaps' is missing"):
            async with one.plugin.attached():
                pass
    finally:
        await one.config.get_engine().dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+aiosqlite:///:memory:", "SQLite in memory"),
        ("mysql+asyncmy://localhost/app", "the history is not tested on mysql"),
    ],
)
async def test_databases_that_cannot_hold_it_are_refused_at_start_up(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(url if url.startswith("sqlite") else "sqlite+aiosqlite:///x", "memory://", create_all=False)
    if not url.startswith("sqlite"):
        engine = SimpleNamespace(url=make_url(url), dialect=SimpleNamespace(name="mysql"), pool=None)
        monkeypatch.setattr(one.config, "get_engine", lambda: engine)
    with pytest.raises(StartupError, match=message):
        one.plugin.check(one.app)
    if url.startswith("sqlite"):
        await one.config.get_engine().dispose()


def test_what_cannot_be_is_refused_where_it_is_given() -> None:
    with pytest.raises(ConfigurationError, match="the history's table is called"):
        HistoryConfig(table="no table")
    with pytest.raises(ConfigurationError, match="the history's session is called"):
        HistoryConfig(session="no session")
    with pytest.raises(ConfigurationError, match="keep is 0:00:00"):
        HistoryConfig(keep=timedelta())
    with pytest.raises(ConfigurationError, match="buffer is 0"):
        HistoryConfig(buffer=0)
    with pytest.raises(ConfigurationError, match="keep_jobs is 0"):
        HistoryConfig(keep_jobs=0)
    with pytest.raises(ConfigurationError, match=r"HistoryConfig\(session=…\)"):
        Litestar(plugins=[TasksPlugin(TasksConfig(registry=registry, history=HistoryConfig()))])
    metadata = MetaData()
    Table("mine", metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="'mine' of its own"):
        history_tables(metadata, "mine")


async def test_the_tables_have_the_name_that_is_asked_for(start: Start[App]) -> None:
    async with start(history={"table": "past"}) as app:
        await app.recorded(await double.enqueue(n=1), "complete")
        assert (await app.sql("SELECT count(*) FROM past"))[0][0] == 1
        assert (await app.sql("SELECT count(*) FROM past_gaps"))[0][0] == 0


_APP = """
from advanced_alchemy.extensions.litestar import AlembicAsyncConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from litestar_tasks import HistoryConfig, Registry, TasksConfig, TasksPlugin

registry = Registry()


@registry.task
async def double(*, n: int) -> int:
    return 2 * n


@registry.task(name="fail")
async def fail(*, password: str) -> None:
    raise ValueError(f"no: password={password}")


def create_app() -> Litestar:
    database = SQLAlchemyAsyncConfig(
        connection_string="sqlite+aiosqlite:///app.sqlite3",
        alembic_config=AlembicAsyncConfig(script_location="migrations"),
    )
    config = TasksConfig(registry=registry, broker_url=BROKER, history=HistoryConfig(table="past"), dashboard=None)
    return Litestar(plugins=[TasksPlugin(config), SQLAlchemyPlugin(database)], logging_config=None)
"""


def test_the_commands_make_the_tables_and_show_what_a_killed_worker_had_written(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    (tmp_path / "an_app.py").write_text(_APP.replace("BROKER", repr(redis_server.url)))

    def run(*commands: tuple[str, ...]) -> list[tuple[int, str]]:
        return litestar(tmp_path, "an_app:create_app", *commands)

    *made, (refused, told), upgraded = run(
        ("database", "init", "migrations", "--no-prompt"),
        ("database", "make-migrations", "--no-prompt", "-m", "history"),
        ("tasks", "history"),
        ("database", "upgrade", "--no-prompt"),
    )
    assert [code for code, _ in (*made, upgraded)] == [0, 0, 0], (made, upgraded)
    assert refused != 0
    assert "litestar database upgrade" in told
    with sqlite3.connect(tmp_path / "app.sqlite3") as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(past)")}
        assert {"id", "enqueued", "arguments", "log"} <= columns
        assert len(list(connection.execute("PRAGMA index_list(past)"))) == 5

    script = (
        "import asyncio, an_app\n"
        "async def main():\n"
        "    app = an_app.create_app()\n"
        "    async with app.lifespan():\n"
        "        print((await an_app.double.enqueue(n=4)).id)\n"
        f"        print((await an_app.fail.enqueue(password={SECRET!r})).id)\n"
        "asyncio.run(main())\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    good, bad = made.stdout.split()
    worker = subprocess.Popen(
        [sys.executable, "-m", "litestar", "--app", "an_app:create_app", "workers", "run", "--drain"], cwd=tmp_path
    )
    try:
        assert worker.wait(60) == 0
    finally:
        if worker.poll() is None:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    *asked, (missing, told) = run(
        ("tasks", "history"),
        ("tasks", "history", "--status", "complete", "--since", "1"),
        ("tasks", "history", "--text", "valueerror"),
        ("tasks", "history", "--job", bad),
        ("tasks", "history", "--rerun", good),
        ("tasks", "history", "--rerun", bad),
    )
    assert [code for code, _ in asked] == [0] * 5, asked
    listed, complete, failed, shown, again = (output for _, output in asked)
    assert good in listed
    assert "complete" in listed
    assert bad in listed
    assert bad not in complete
    assert good not in failed
    assert "Traceback" in shown
    assert SECRET not in shown
    assert "default:" in again
    assert missing != 0
    assert "does not hold password" in told


async def test_a_stock_record_without_times_is_recorded(start: Start[App]) -> None:
    async with start(in_process_worker=False) as app:
        queue = app.plugin.get_queue("default")
        queue.instrument(Job(function="double", kwargs={"n": 1}, queue=queue, key="bare", meta={}), "enqueued")
        await app.history.flush()
        assert (await app.history.job(queue.job_id("bare"))).arguments == {"n": 1}


async def test_a_task_that_asks_for_a_retry_is_recorded_while_it_waits(start: Start[App]) -> None:
    @registry.task(name="patient", max_attempts=2)
    async def patient() -> None:
        raise Retry(delay=600)

    async with start() as app:
        job = await patient.enqueue()
        waiting = await app.recorded(job, "scheduled")
        assert [one.outcome for one in waiting.attempts] == ["retry"]
        assert waiting.ended is None
