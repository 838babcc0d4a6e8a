"""The queue on Postgres: what is its own beside what every broker promises, and what becomes of it in an outage."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

import psycopg
import pytest
from saq.job import Job, Status
from saq.queue.postgres import PostgresQueue as StockQueue

from litestar_tasks.config import TasksConfig
from litestar_tasks.exceptions import BrokerError, ConfigurationError, PayloadError, QueueUnavailableError
from litestar_tasks.follow_ups import FOLLOW_UPS
from litestar_tasks.job import JobSpec, Submission
from litestar_tasks.queues import patrol, records, served
from litestar_tasks.queues.base import ClaimedJob, Settlement, WorkerHooks
from litestar_tasks.queues.operations import JobFilter, Minute, TaskMinute
from litestar_tasks.queues.postgres import (
    PostgresQueue,
    consumer,
    listings,
    locking,
    producer,
    schema,
    statements,
    upkeep,
)
from litestar_tasks.queues.postgres.connection import Away, Endpoint
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.registry import Registry
from litestar_tasks.uniqueness import Lock
from tests.homes import ABSENT
from tests.integration.conftest import eventually
from tests.servers import PostgresServer, postgres_binaries

pytestmark = pytest.mark.skipif(postgres_binaries() is None, reason="Postgres is not installed")

MakeQueue = Callable[..., PostgresQueue]
SHORT: dict[str, Any] = {"lease": 1.5, "renew_every": 0.25}


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    server = PostgresServer()
    migrate(server.url(), lambda _: None)
    yield server
    server.close()


@pytest.fixture
def url(cluster: PostgresServer) -> str:
    """A database with our tables, empty. Its server is shared: no test may stop or freeze it."""
    tables = ", ".join(
        f"litestar_tasks_{name}" for name in ("jobs", "leases", "queues", "workers", "minutes", "windows")
    )
    cluster.execute(f"TRUNCATE {tables}")
    return cluster.url()


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server that the test may do anything with, with our tables in its first database."""
    server = PostgresServer()
    migrate(server.url(), lambda _: None)
    yield server
    server.close()


@pytest.fixture
async def make_queue() -> AsyncIterator[MakeQueue]:
    """Makes queues that are disconnected at the end, unless the test did."""
    queues: list[PostgresQueue] = []

    def make(url: str, **options: object) -> PostgresQueue:
        queues.append(PostgresQueue.from_url(url, **{"enqueue_deadline": 10.0, **options}))
        return queues[-1]

    yield make
    for one in queues:
        await one.disconnect()


class Hand:
    """The worker's part: claims what it is told to, and notes what it is called with."""

    def __init__(self, queue: PostgresQueue) -> None:
        self.queue = queue
        self.aborts: list[tuple[str, str]] = []
        self.lost: list[str] = []

    async def open(self, name: str = "hand") -> Hand:
        await self.queue.open(
            name, WorkerHooks(abort=lambda key, reason: self.aborts.append((key, reason)), lost=self.lost.extend)
        )
        return self

    async def take(self, count: int) -> list[ClaimedJob]:
        """Claim exactly so many, in as many claims as it takes."""
        jobs: list[ClaimedJob] = []
        async with asyncio.timeout(40):
            while len(jobs) < count:
                try:
                    jobs += await self.queue.claim(count - len(jobs))
                except BrokerError:
                    continue
        return jobs

    async def complete(self, job: ClaimedJob, result: Any = None) -> bool:
        job.status, job.result, job.completed = Status.COMPLETE, result, int(time.time() * 1000)
        return await self.queue.settle(job, Settlement.COMPLETE)

    def stop_renewing(self) -> None:
        held: Any = self.queue._consumer
        held._lease.stop()


def spec(key: str | None = None, **options: Any) -> JobSpec:
    return JobSpec(task="noop", kwargs={}, key=key, **options)


def grouped(key: str, group: str | None) -> Job:
    return Job(function="noop", key=key, group_key=group)


def keys(jobs: list[ClaimedJob]) -> list[str]:
    return [job.key for job in jobs]


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "litestar_tasks.queues"]


# ---------------------------------------------------------------------------------------------------- the tables


async def test_a_database_without_tables_is_refused_with_the_command_that_makes_them(
    cluster: PostgresServer, make_queue: MakeQueue
) -> None:
    empty = make_queue(cluster.create_database())
    with pytest.raises(BrokerError, match=r'missing .*; run "litestar tasks migrate" first'):
        await empty.connect()
    with pytest.raises(BrokerError, match='run "litestar tasks migrate" first'):
        await Hand(empty).open()
    with pytest.raises(QueueUnavailableError, match='run "litestar tasks migrate" first'):
        await empty.submit(spec())


async def test_old_tables_are_refused_and_newer_ones_are_not(cluster: PostgresServer, make_queue: MakeQueue) -> None:
    url = cluster.create_database()
    migrate(url, lambda _: None)
    rows(url, "UPDATE litestar_tasks_schema SET version = version - 1")
    with pytest.raises(
        BrokerError, match=rf'at version {schema.VERSION - 1}, and this release needs {schema.VERSION}; run "litestar'
    ):
        await make_queue(url).connect()
    rows(url, f"UPDATE litestar_tasks_schema SET version = {schema.VERSION + 1} WHERE version = {schema.VERSION - 1}")
    await make_queue(url).connect()


async def test_nothing_but_the_migration_makes_tables(cluster: PostgresServer, make_queue: MakeQueue) -> None:
    database = cluster.create_database()
    with pytest.raises(BrokerError):
        await make_queue(database).connect()
    assert rows(database, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'litestar%'") == [(0,)]


def test_migrating_again_changes_nothing_and_says_so(cluster: PostgresServer) -> None:
    database = cluster.create_database()
    said: list[str] = []
    migrate(database, said.append)
    assert said[1:] == [f"  version {number}: created {what}" for number, (what, _) in enumerate(schema.STEPS, start=1)]
    said.clear()
    migrate(database, said.append)
    assert said[1:] == [f"  the tables are at version {schema.VERSION} already"]


@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_jobs_of_an_earlier_release_go_on_in_migrated_tables(
    cluster: PostgresServer, make_queue: MakeQueue, version: int
) -> None:
    url = cluster.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(schema.LEDGER.encode())
        for number, (_, statements_of_step) in enumerate(schema.STEPS[:version], start=1):
            connection.execute(statements_of_step.encode())
            connection.execute(schema.done(number).encode())
    queue = make_queue(url)
    document = records.encode(queue.build(spec("old"))).decode()
    rows(
        url,
        "INSERT INTO litestar_tasks_jobs (queue, key, job, status, task) "
        f"SELECT '{queue.name}', key, convert_to('{document}', 'UTF8'), status, 'noop' "
        "FROM (VALUES ('old', 'queued'), ('ended', 'complete')) AS job (key, status)",
    )
    migrate(url, lambda _: None)
    await queue.connect()
    hand = await Hand(queue).open()
    assert keys(await hand.take(1)) == ["old"]
    lock = Lock(name="0" * 32, until="finished", window=60)
    first = await queue.submit(spec("new", lock=lock))
    second = await queue.submit(spec("newer", lock=lock))
    assert (first.deduplicated, second.job.key) == (False, "new")
    assert keys(await hand.take(1)) == ["new"]


def test_two_who_migrate_at_once_make_the_tables_once(cluster: PostgresServer) -> None:
    database = cluster.create_database()
    said: list[list[str]] = [[], [], []]
    threads = [threading.Thread(target=migrate, args=(database, one.append)) for one in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(len([line for line in one if "created" in line]) for one in said) == [0, 0, len(schema.STEPS)]


def test_the_printed_statements_make_the_same_tables(cluster: PostgresServer) -> None:
    columns = """
        SELECT table_name, column_name, data_type, column_default FROM information_schema.columns
        WHERE table_schema = 'public' ORDER BY 1, 2
    """
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    made, printed = cluster.create_database(), cluster.create_database()
    migrate(made, lambda _: None)
    rows(printed, schema.script())
    assert rows(made, columns) == rows(printed, columns)
    assert rows(made, indexes) == rows(printed, indexes)


def test_the_command_migrates_or_prints(cluster: PostgresServer, tmp_path: Any) -> None:
    (tmp_path / "shop.py").write_text(
        """
import os
from litestar import Litestar
from litestar_tasks import Registry, TasksConfig, TasksPlugin

app = Litestar(plugins=[TasksPlugin(TasksConfig(registry=Registry("shop"), broker_url=os.environ["URL"]))])
"""
    )

    def run(database: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "litestar", "--app", "shop:app", "tasks", "migrate", *arguments],
            cwd=tmp_path,
            env={**os.environ, **ABSENT, "URL": database},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def tables(database: str) -> int:
        return int(rows(database, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'litestar%'")[0][0])

    made, untouched = cluster.create_database(), cluster.create_database()
    done, printed = run(made), run(untouched, "--sql")
    output = [one.communicate(timeout=120)[0] for one in (done, printed)]
    assert "version 1: created jobs" in output[0]
    assert tables(made) == schema.script().count("CREATE TABLE")
    assert "CREATE TABLE litestar_tasks_jobs" in output[1]
    assert tables(untouched) == 0
    assert (done.returncode, printed.returncode) == (0, 0)


async def test_no_statement_reads_whatever_else_is_in_the_table(url: str, make_queue: MakeQueue) -> None:
    """Each finds its rows along an index, in its order, with plans that were made while the table was empty."""
    one = make_queue(url)
    await one.submit_many([spec(f"k{number}") for number in range(50)])
    queue_link: Any = one._reader
    parameters: dict[str, Any] = {
        "queue": one.name,
        "owner": 1,
        "want": 10,
        "worker": "w",
        "limit": 10,
        "keys": ["k1"],
        "failed_ttl": 1,
        "max_losses": 3,
        "lost": 2,
        "leaving": False,
        "status": "complete",
        "keep": 10,
        "reason": "r",
        "lease": 15.0,
        "statuses": ["queued"],
        "horizon": 5,
        "tokens": [1],
        "locks": ["0" * 32],
        "once": False,
        "until_starts": [False],
        "deadlines": [None],
    }
    hot = ("CLAIM", "PROMOTE", "READ", "CANCEL", "TAKE", "HELD", "ABORTS", "RENEW", "EXPIRED", "BOUNDARY", "RELEASE")
    bound = ("HOLDERS", "STANDING", "BIND")
    for name in hot + bound:
        plan = await queue_link.ask("EXPLAIN " + getattr(statements, name), parameters)
        text = "\n".join(line for (line,) in plan)
        assert "Seq Scan on litestar_tasks_jobs" not in text, f"{name}\n{text}"
        assert "Bitmap" not in text, f"{name}\n{text}"


async def test_a_days_minutes_are_those_of_the_servers_clock(
    url: str, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose clock is days ahead removes none that others have counted."""
    monkeypatch.setattr(upkeep, "_IDLE", 0.0)
    queue = make_queue(url)
    now = datetime.now(UTC)
    counted = {"noop": TaskMinute(complete=1)}
    await queue.add_minutes([Minute(now - timedelta(days=age), counted) for age in (0, 2)])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3 * 86_400)
    await Hand(queue).open()
    link: Any = queue._reader

    async def kept() -> bool:
        found = await link.ask(
            "SELECT minute FROM litestar_tasks_minutes WHERE queue = %(queue)s", {"queue": queue.name}
        )
        return [minute for (minute,) in found] == [int(now.timestamp()) // 60]

    await eventually(kept)


# ---------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRESQL"])
async def test_every_spelling_of_the_scheme_is_understood(url: str, make_queue: MakeQueue, scheme: str) -> None:
    spelled = scheme + url[len("postgresql") :]
    TasksConfig(registry=Registry("shop"), broker_url=spelled)
    await make_queue(spelled).connect()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("postgresql+psycopg://localhost/app", "write postgresql://"),
        ("postgresql://user:p/w@localhost/app", "percent-encoded"),
        ("postgresql://localhost", "percent-encoded"),
        ("postgresql://user:p#w@localhost/app", "percent-encoded"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_its_password(wrong: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        TasksConfig(registry=Registry("shop"), broker_url=wrong)
    assert "p/w" not in str(caught.value)
    assert "p#w" not in str(caught.value)


def test_the_address_in_messages_holds_no_credentials() -> None:
    endpoint = Endpoint("postgresql://eve:secret@db.example:5433/app")
    assert endpoint.address == "db.example:5433/app"


async def test_a_durability_that_the_server_cannot_keep_is_refused(url: str, make_queue: MakeQueue) -> None:
    with pytest.raises(BrokerError, match="fsync is off"):
        await make_queue(url, durability="disk").connect()
    with pytest.raises(ConfigurationError, match="synchronous_standby_names"):
        make_queue(url, durability="replicas:1")


# ---------------------------------------------------------------------------------------------------- keys and groups


async def test_a_job_that_postgres_refuses_costs_others_of_its_round_trip_nothing(
    url: str, make_queue: MakeQueue
) -> None:
    queue = make_queue(url)
    await queue.connect()
    long = token_hex(5_000)  # no index holds it
    calls = [JobSpec(task="noop", kwargs={}, key=key) for key in ("a", "b", long, "c", "d")]
    answers = await asyncio.gather(*map(queue.submit, calls), return_exceptions=True)
    assert [type(one) for one in answers] == [Submission, Submission, PayloadError, Submission, Submission]
    assert [one.deduplicated for one in answers if isinstance(one, Submission)] == [False] * 4
    assert "Postgres refuses the job" in str(answers[2])
    assert await queue.count("queued") == 4


async def test_the_same_key_on_two_queues_is_two_jobs(url: str, make_queue: MakeQueue) -> None:
    queues = [make_queue(url), make_queue(url, label="mail"), make_queue(url, namespace="staging")]
    for one in queues:
        assert not (await one.submit(spec("order-7"))).deduplicated
        assert (await one.submit(spec("order-7"))).deduplicated
    hand = await Hand(queues[1]).open()
    (job,) = await hand.take(1)
    await hand.complete(job)
    assert [await one.status("order-7") for one in queues] == ["queued", "complete", "queued"]
    assert len({one.job_id("order-7") for one in queues}) == 3


async def test_of_many_who_enqueue_one_key_at_once_one_gets_in(url: str, make_queue: MakeQueue) -> None:
    queues = [make_queue(url) for _ in range(4)]
    for turn in range(10):
        answers = await asyncio.gather(*(one.submit(spec(f"k{turn}")) for one in queues for _ in range(5)))
        assert sum(not answer.deduplicated for answer in answers) == 1
    batch = await queues[0].submit_many([spec("twice"), spec("other"), spec("twice")])
    assert [one.deduplicated for one in batch] == [False, False, True]


async def test_a_grouped_job_that_runs_holds_up_its_group_alone(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    for key, group in (("g1", "g"), ("g2", "g"), ("free", None), ("h1", "h"), ("free2", None)):
        await one.enqueue(grouped(key, group))
    hand = await Hand(one).open()
    jobs = await hand.take(4)
    assert keys(jobs) == ["g1", "free", "h1", "free2"]
    assert await one.claim(5) == []
    await hand.complete(jobs[0])
    assert keys(await hand.take(1)) == ["g2"]


async def test_a_group_that_is_due_together_runs_one_after_another_in_order(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    jobs = [_stored(one, grouped(f"g{number}", "g")) for number in range(4)]
    for number, job in enumerate(jobs):
        job.scheduled = time.time() + 0.2 + number / 1000
    await one.store_many(jobs)
    hands = [await Hand(one).open(), await Hand(make_queue(url)).open()]
    for number in range(4):
        found: list[ClaimedJob] = []
        async with asyncio.timeout(20):
            while not found:
                answers = await asyncio.gather(*(hand.queue.claim(10) for hand in hands))
                found = [job for answer in answers for job in answer]
        assert keys(found) == [f"g{number}"]
        (owner,) = [hand for hand, answer in zip(hands, answers, strict=True) if answer]
        assert await owner.complete(found[0])


async def test_due_jobs_are_made_ready_by_one_at_a_time_so_none_overtakes_another(
    url: str, make_queue: MakeQueue
) -> None:
    one = make_queue(url)
    jobs = [_stored(one, grouped(f"g{number}", "g")) for number in range(3)]
    for number, job in enumerate(jobs):
        job.scheduled = time.time() + 0.1 + number / 1000
    await one.store_many(jobs)

    def promote(connection: psycopg.Connection, limit: int) -> int:
        return len(connection.execute(statements.PROMOTE.encode(), {"queue": one.name, "limit": limit}).fetchall())

    with psycopg.connect(url) as first, psycopg.connect(url, autocommit=True) as second:
        while not promote(first, 1):
            first.rollback()  # its clock stands still within a transaction
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert promote(second, 10) == 0  # or g1 and g2 could be claimed before g0 is there
        first.commit()
        assert promote(second, 10) == 2
    assert keys(await (await Hand(one).open()).take(1)) == ["g0"]


async def test_workers_that_claim_at_the_same_moment_never_share_a_job_or_a_group(
    url: str, make_queue: MakeQueue
) -> None:
    producer = make_queue(url)
    groups = [f"g{number % 7}" if number % 2 else None for number in range(200)]
    await producer.store_many([_stored(producer, grouped(f"k{n}", group)) for n, group in enumerate(groups)])
    hands = [await Hand(make_queue(url)).open() for _ in range(4)]
    running: dict[str, str] = {}
    seen: list[str] = []

    async def work(hand: Hand) -> None:
        while len(seen) < 200:
            for job in await hand.queue.claim(3):
                if job.group_key is not None:
                    assert job.group_key not in running, (job.key, running)
                    running[job.group_key] = job.key
                seen.append(job.key)
                await asyncio.sleep(0)
                if job.group_key is not None:
                    del running[job.group_key]
                assert await hand.complete(job)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, hands))
    assert sorted(seen) == sorted(f"k{number}" for number in range(200))


def _stored(queue: PostgresQueue, job: Job) -> Job:
    job.queue, job.status, job.queued = queue, Status.QUEUED, int(time.time() * 1000)
    return job


async def test_a_key_that_postgres_cannot_hold_is_refused_before_it_is_sent(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    with pytest.raises(PayloadError, match="NUL"):
        await one.submit(spec("a\0b"))
    with pytest.raises(PayloadError):
        await one.submit(spec(token_hex(5_000)))  # longer than an index can hold
    assert await one.job("a\0b") is None
    handle = await one.submit(JobSpec(task="noop", kwargs={"text": "a\0b"}))
    assert (await one.job(handle.job.key)).kwargs == {"text": "a\0b"}  # type: ignore[union-attr]


async def test_saq_can_read_the_document_of_a_job(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    await one.submit(spec("k", priority=3, meta={"tag": "vip"}))
    hand = await Hand(one).open()
    (job,) = await hand.take(1)
    await hand.complete(job, {"total": 3})
    ((document, status),) = rows(url, "SELECT job, status FROM litestar_tasks_jobs")
    stock = StockQueue.from_url(url)
    read = stock.deserialize(bytes(document), status)
    assert read is not None
    assert (read.key, read.status, read.result, read.priority) == ("k", Status.COMPLETE, {"total": 3}, 3)


# ---------------------------------------------------------------------------------------------------- claims and fences


async def test_a_token_grows_from_claim_to_claim_whoever_claims(url: str, make_queue: MakeQueue) -> None:
    hands = [await Hand(make_queue(url)).open(), await Hand(make_queue(url)).open()]
    await hands[0].queue.submit(spec("k"))
    tokens = []
    for turn in range(4):
        (job,) = await hands[turn % 2].take(1)
        tokens.append(job.token)
        assert await hands[turn % 2].queue.settle(job, Settlement.RETRY)
    assert tokens == sorted(set(tokens))


async def test_a_worker_whose_lease_lapsed_is_fenced_and_told_and_goes_on(url: str, make_queue: MakeQueue) -> None:
    first = await Hand(make_queue(url, **SHORT)).open("first")
    await first.queue.submit_many([spec(f"k{number}") for number in range(3)])
    jobs = await first.take(3)
    first.stop_renewing()
    held: Any = first.queue._consumer
    await held._upkeep.close()  # which would renew, too
    second = await Hand(make_queue(url, **SHORT)).open("second")
    again = await second.take(3)
    assert keys(again) == keys(jobs)
    assert not await first.complete(jobs[0])
    assert await first.queue.claim(1) == []  # learns of it, and gets a new lease
    assert sorted(first.lost) == sorted(keys(jobs)[1:])
    assert not await first.complete(jobs[1])
    for job in again:
        assert await second.complete(job)
    await first.queue.submit(spec("later"))
    assert keys(await first.take(1)) == ["later"]


async def test_a_cancelled_claim_hands_back_what_it_claimed(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url)).open()
    for turn in range(20):
        await hand.queue.submit(spec(f"k{turn}"))
        claim = asyncio.create_task(hand.queue.claim(5))
        await asyncio.sleep(turn / 4000)
        claim.cancel()
        answer = (await asyncio.gather(claim, return_exceptions=True))[0]
        jobs = answer if isinstance(answer, list) else await hand.take(1)
        assert keys(jobs) == [f"k{turn}"]
        assert await hand.complete(jobs[0])


async def test_a_claim_whose_answer_was_lost_is_handed_back(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url)).open()
    await hand.queue.submit(spec("k"))
    held: Any = hand.queue._consumer
    parameters = {"queue": hand.queue.name, "owner": held.owner, "want": 1, "worker": "w"}
    reader: Any = hand.queue._reader
    await reader.ask(statements.CLAIM, parameters)  # nobody learns of it
    await held.audit(reader)
    assert keys(await hand.take(1)) == ["k"]


async def test_a_job_that_was_deleted_by_hand_while_it_ran_is_given_up(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url)).open()
    await hand.queue.submit(spec("k"))
    (job,) = await hand.take(1)
    rows(url, "DELETE FROM litestar_tasks_jobs")
    held: Any = hand.queue._consumer
    await held.audit(hand.queue._reader)
    assert hand.lost == ["k"]
    assert not await hand.complete(job)


async def test_what_one_turn_settles_is_written_together(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url)).open()
    await hand.queue.submit_many([spec() for _ in range(50)])
    jobs = await hand.take(50)
    link: Any = hand.queue._consumer._link  # type: ignore[union-attr]
    asked: list[str] = []
    ask = link.ask

    async def counting(statement: str, *args: Any, **options: Any) -> Any:
        asked.append(statement)
        return await ask(statement, *args, **options)

    link.ask = counting
    assert all(await asyncio.gather(*map(hand.complete, jobs)))
    assert asked.count(statements.SETTLE) == 1


async def test_an_outcome_that_cannot_be_written_stops_no_other(
    url: str, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    hand = await Hand(make_queue(url)).open()
    await hand.queue.submit_many([spec(f"k{number}") for number in range(4)])
    jobs = await hand.take(4)
    jobs[2].attempts = 1 << 40  # the column is no wider than 32 bits
    assert await asyncio.gather(*map(hand.complete, jobs)) == [True, True, False, True]
    assert any("cannot be written" in line for line in lines(caplog))


async def test_a_row_that_is_no_job_is_put_aside_and_stops_nothing(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url)).open()
    await hand.queue.submit_many([spec("bad"), spec("good")])
    rows(url, "UPDATE litestar_tasks_jobs SET job = 'garbage' WHERE key = 'bad'")
    assert keys(await hand.take(1)) == ["good"]
    await eventually(lambda: rows(url, "SELECT quarantined FROM litestar_tasks_jobs WHERE key = 'bad'") == [(True,)])
    page = await hand.queue.page(JobFilter(state="quarantined"))
    assert [job.key for job in page.jobs] == ["bad"]
    assert page.jobs[0].meta["document"] == "garbage"


async def test_counts_stop_at_the_number_that_the_queue_names(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    await one.submit_many([spec(f"k{number}") for number in range(3)])
    fill = """
        INSERT INTO litestar_tasks_jobs (queue, key, job, status, task, scheduled, ended)
        SELECT queue, {name} || n, job, {status}, task, {scheduled}, {ended}
        FROM litestar_tasks_jobs, generate_series(1, {number}) AS n WHERE key = 'k0'
    """
    most = one.counted_up_to
    assert most is not None
    rows(url, fill.format(name="'d'", status="'complete'", scheduled="NULL", ended="now()", number=most + 5))
    rows(url, fill.format(name="'w'", status="'queued'", scheduled="now() - interval '1 s'", ended="NULL", number=most))
    counts = await one.counts()
    assert (counts["complete"], counts["queued"], counts["scheduled"], counts["failed"]) == (most, most, 0, 0)


# ---------------------------------------------------------------------------------------------------- recovery


async def test_lost_jobs_come_back_at_the_head_and_the_third_loss_fails_them(url: str, make_queue: MakeQueue) -> None:
    producer = make_queue(url)
    await producer.submit_many([spec("a"), spec("b"), spec("once", meta={"at_most_once": True}), spec("c"), spec("z")])
    victim, other = await Hand(make_queue(url, **SHORT)).open("victim"), await Hand(make_queue(url, **SHORT)).open()
    assert keys(await victim.take(4)) == ["a", "b", "once", "c"]
    rows(url, "UPDATE litestar_tasks_jobs SET losses = 2 WHERE key = 'b'")
    await _die(victim)
    await eventually(
        lambda: rows(url, "SELECT DISTINCT status FROM litestar_tasks_jobs WHERE ended IS NULL") == [("queued",)],
        within=30,
    )
    found = {job.key: job for job in await producer.jobs(["b", "once"]) if job}
    assert {job.status for job in found.values()} == {Status.FAILED}
    assert "poison: 3 workers were lost" in str(found["b"].error)
    assert "must not be started twice" in str(found["once"].error)
    assert keys(await other.take(3)) == ["a", "c", "z"]
    assert rows(url, "SELECT losses FROM litestar_tasks_jobs WHERE key IN ('a', 'c', 'z') ORDER BY key") == [
        (1,),
        (1,),
        (0,),
    ]


async def _die(hand: Hand) -> None:
    """As SIGKILL would have it, but that the process goes on: only its lease tells."""
    held: Any = hand.queue._consumer
    hand.stop_renewing()
    await held._upkeep.close()


async def test_jobs_of_a_worker_without_any_lease_are_found(url: str, make_queue: MakeQueue) -> None:
    first = await Hand(make_queue(url, **SHORT)).open("first")
    await first.queue.submit(spec("k"))
    await first.take(1)
    rows(url, "DELETE FROM litestar_tasks_leases")
    second = await Hand(make_queue(url, **SHORT)).open("second")
    assert keys(await second.take(1)) == ["k"]
    await eventually(lambda: first.lost == ["k"])


async def test_a_worker_that_leaves_hands_its_jobs_back_in_their_order_and_loses_nothing(
    url: str, make_queue: MakeQueue
) -> None:
    first, second = await Hand(make_queue(url)).open(), await Hand(make_queue(url)).open()
    await first.queue.submit_many([spec(f"k{number}") for number in range(5)])
    await first.take(4)
    await first.queue.close()
    assert keys(await second.take(5)) == [f"k{number}" for number in range(5)]
    assert rows(url, "SELECT sum(losses) FROM litestar_tasks_jobs") == [(0,)]
    assert rows(url, "SELECT count(*) FROM litestar_tasks_leases") == [(1,)]


async def test_a_blocked_event_loop_is_not_a_dead_process(url: str, make_queue: MakeQueue) -> None:
    lost: list[str] = []
    blocked, checked = threading.Event(), threading.Event()

    def other_process() -> None:
        async def run() -> None:
            one = await Hand(PostgresQueue(url, **SHORT)).open("blocked")
            (job,) = await one.take(1)
            blocked.set()
            time.sleep(SHORT["lease"] * 2.5)  # noqa: ASYNC251  # what a task does that should not
            assert await one.complete(job)
            lost.extend(one.lost)
            await one.queue.disconnect()
            checked.set()

        asyncio.run(run())

    other = await Hand(make_queue(url, **SHORT)).open("other")
    await other.queue.submit(spec("k"))
    await other.queue.close()
    thread = threading.Thread(target=other_process)
    thread.start()
    assert await asyncio.to_thread(blocked.wait, 30)
    await other.open("other")
    assert await other.queue.claim(1) == []
    await eventually(checked.is_set, within=60)
    await asyncio.to_thread(thread.join)
    assert lost == []
    assert await other.queue.status("k") == "complete"


# ---------------------------------------------------------------------------------------------------- notifications


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: what happens soon happens because it was announced."""
    monkeypatch.setattr(consumer, "_LOOK", 120.0)
    monkeypatch.setattr(patrol, "LOOK", 120.0)
    monkeypatch.setattr(upkeep, "LOOK", 120.0)
    monkeypatch.setattr(served, "_POLL", 120.0)
    monkeypatch.setattr(served, "_UNSURE_POLL", 120.0)


@pytest.mark.usefixtures("patient")
async def test_an_idle_worker_is_woken_for_jobs_that_are_ready_or_soon_will_be(url: str, make_queue: MakeQueue) -> None:
    producer, hand = make_queue(url), await Hand(make_queue(url)).open()
    await hand.queue._listener.confirmed(hand.queue._announcer.work)
    for turn in range(10):
        claim = asyncio.create_task(hand.take(1))
        await asyncio.sleep(0.02)
        delay = 0.3 if turn % 5 == 4 else 0
        await producer.enqueue(Job(function="noop", key=f"k{turn}", scheduled=time.time() + delay if delay else 0))
        assert keys(await claim) == [f"k{turn}"]


@pytest.mark.usefixtures("patient")
async def test_whoever_waits_for_a_job_is_told_of_its_end(url: str, make_queue: MakeQueue) -> None:
    caller, hand = make_queue(url), await Hand(make_queue(url)).open()
    for turn in range(30):
        job = (await caller.submit(spec(f"k{turn}"))).job
        waiting = asyncio.create_task(caller.wait(job.key, 30))
        if turn % 2:
            await asyncio.sleep(0.01)
        (claimed,) = await hand.take(1)
        assert await hand.complete(claimed, turn)
        ended = await waiting
        assert ended is not None
        assert ended.result == turn
    many = await caller.submit_many([spec() for _ in range(300)])
    waits = [asyncio.create_task(caller.wait(one.job.key, 60)) for one in many]
    for claimed in await hand.take(300):
        await hand.complete(claimed)
    assert all(ended and ended.status is Status.COMPLETE for ended in await asyncio.gather(*waits))


@pytest.mark.usefixtures("patient")
async def test_a_listening_connection_that_is_cut_is_made_again_and_nothing_is_missed(
    url: str, make_queue: MakeQueue
) -> None:
    producer, hand = make_queue(url), await Hand(make_queue(url)).open()
    await producer.submit(spec("held"))
    (held,) = await hand.take(1)
    waiting = asyncio.create_task(producer.wait("held", 60))
    await eventually(lambda: len(producer._listener._confirmed) == 1)
    claim = asyncio.create_task(hand.take(1))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    for _ in range(3):
        await eventually(lambda: len(rows(url, cut)) >= 2, within=30)
    assert await hand.complete(held, "told")
    ended = await waiting
    assert ended is not None
    assert ended.result == "told"
    await producer.submit(spec("next"))
    assert keys(await claim) == ["next"]


async def test_without_notifications_jobs_and_results_come_all_the_same(
    url: str, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "_POLL", 0.5)
    producer, hand = make_queue(url), await Hand(make_queue(url)).open()
    for one in (producer, hand.queue):
        monkeypatch.setattr(one._announcer, "_start", lambda: None)
    claim = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0.1)
    await producer.submit(spec("k"))
    waiting = asyncio.create_task(producer.wait("k", 30))
    (job,) = await claim
    assert await hand.complete(job)
    assert (await waiting).status is Status.COMPLETE  # type: ignore[union-attr]


@pytest.mark.parametrize("heard", [True, False])
async def test_a_running_job_is_asked_to_end_by_message_or_with_the_next_renewal(
    url: str, make_queue: MakeQueue, heard: bool
) -> None:
    caller = make_queue(url)
    hand = await Hand(make_queue(url, lease=60.0 if heard else 2.0, renew_every=12.0 if heard else 0.4)).open()
    await caller.submit_many([spec("runs"), spec("waits"), spec("due", run_at=_in_a_minute())])
    await hand.take(2)
    if heard:
        assert await hand.queue._listener.confirmed(hand.queue._announcer.work)
    else:
        await hand.queue._listener.close()
    assert await caller.cancel("runs", "changed my mind")
    await eventually(lambda: hand.aborts == [("runs", "changed my mind")])
    assert await caller.status("runs") == "active"
    assert await caller.cancel("due", "too late")
    assert await caller.status("due") == "aborted"
    assert (await caller.job("due")).error == "too late"  # type: ignore[union-attr]
    assert not await caller.cancel("due", "again")
    assert not await caller.cancel("never was", "x")


async def test_an_abort_that_comes_with_the_claim_is_told_when_the_worker_knows_the_job(
    url: str, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, known, told = make_queue(url), list[str](), list[tuple[str, bool]]()
    hooks = WorkerHooks(abort=lambda key, _: told.append((key, key in known)), lost=lambda _: None)
    await queue.open("w", hooks)
    consumer: Any = queue._consumer
    accept = consumer._accept

    def accept_and_abort(*claimed: Any) -> list[ClaimedJob]:
        jobs: list[ClaimedJob] = accept(*claimed)
        for job in jobs:  # the lease's thread hears of it in this very moment
            consumer._request_abort(job.token, "changed my mind")
        return jobs

    monkeypatch.setattr(consumer, "_accept", accept_and_abort)
    await queue.submit(spec("k"))
    known += keys(await queue.claim(1))
    await eventually(lambda: bool(told))
    assert told == [("k", True)]


def _in_a_minute() -> Any:
    return datetime.now(UTC) + timedelta(minutes=1)


def test_a_long_list_of_changes_fits_into_what_a_notification_can_hold() -> None:
    from litestar_tasks.queues.postgres.listener import _payloads, channel_of

    payloads = _payloads([(f"key-{number}", "complete") for number in range(2000)] + [("k" * 9000, "failed")])
    assert max(len(payload.encode()) for payload in payloads) < 8000
    changes = [change for payload in payloads if payload for change in json.loads(payload)]
    assert len(changes) == 2000
    assert payloads.count("") == 1
    assert len(channel_of("work", "q" * 500).encode()) <= 63


# ---------------------------------------------------------------------------------------------------- records


async def test_records_beyond_their_number_and_their_time_are_removed(url: str, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(url, keep_complete=5)).open()
    await hand.queue.submit_many([spec(f"k{number}", ttl=0) for number in range(12)])
    await hand.queue.submit_many([spec("short", ttl=60), spec("unlisted", ttl=-1), spec("waits")])
    for job in await hand.take(14):
        assert await hand.complete(job)
    rows(url, "UPDATE litestar_tasks_jobs SET expire_at = now() WHERE key IN ('short', 'unlisted')")
    held: Any = hand.queue._consumer

    async def swept() -> bool:
        held.has_ended = True
        left = rows(url, "SELECT key FROM litestar_tasks_jobs ORDER BY position")
        return [key for (key,) in left] == [f"k{number}" for number in range(7, 12)] + ["waits"]

    await eventually(swept, within=30)


async def test_a_page_of_a_long_listing_is_found_without_reading_the_rest(url: str, make_queue: MakeQueue) -> None:
    one = make_queue(url)
    await one.connect()
    rows(
        url,
        """
        INSERT INTO litestar_tasks_jobs (queue, key, job, status, task, ended)
        SELECT 'default', 'k' || n, convert_to('{"function":"noop","queue":"default","key":"k' || n
            || '","status":"failed"}', 'UTF8'), 'failed', 'noop', now() - n * interval '1 second'
        FROM generate_series(1, 5000) AS n
        """,
    )
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await one.page(JobFilter(state="failed"), limit=500, cursor=cursor)
        seen += [job.key for job in page.jobs]
        if (cursor := page.cursor) is None:
            break
    assert seen == [f"k{number}" for number in range(1, 5001)]
    assert listings._READ < 5000
    found = await one.page(JobFilter(state="failed", task="other"))
    assert found.jobs == []
    assert found.cursor is not None


# ---------------------------------------------------------------------------------------------------- outages


async def test_an_outage_costs_no_result_and_is_said_once(
    own: PostgresServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hand = await Hand(make_queue(own.url(), enqueue_deadline=2.0, **SHORT)).open()
    await hand.queue.submit_many([spec(f"k{number}") for number in range(3)])
    jobs = await hand.take(3)
    await asyncio.to_thread(own.stop)
    settling = [asyncio.create_task(hand.complete(job, job.key)) for job in jobs]
    with pytest.raises(QueueUnavailableError) as refused:
        await hand.queue.submit(spec("during"))
    assert not refused.value.maybe_enqueued
    with pytest.raises(QueueUnavailableError):
        await hand.queue.job("k0")
    with pytest.raises(BrokerError):
        await _claim_for_ever(hand)
    await asyncio.to_thread(own.start)
    assert await asyncio.gather(*settling) == [True, True, True]
    await eventually(lambda: _accepts(hand.queue, "after"), within=30)
    assert keys(await hand.take(1)) == ["after"]
    said = lines(caplog)
    assert len([line for line in said if "does not answer" in line]) == 1, said
    assert len([line for line in said if "answers again" in line]) == 1, said


async def _claim_for_ever(hand: Hand) -> None:
    async with asyncio.timeout(30):
        while True:
            await hand.queue.claim(1)


async def test_what_was_stored_before_the_answer_to_the_rest_was_lost_is_stored_once(
    url: str, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(url)
    hand = await Hand(queue).open()
    lost: list[bool] = []

    async def lose_the_first(*arguments: Any, **options: Any) -> list[bool | str]:
        if not lost:  # a job with a lock is stored in a step of its own, after what stands before it
            lost.append(await hand.complete((await hand.take(1))[0]))
            raise Away("the connection was lost", sent=True)
        return await locking.store_locked(*arguments, **options)

    monkeypatch.setattr(producer, "store_locked", lose_the_first)
    bound = spec("bound", lock=Lock(name="0" * 32, until="finished"))
    found = await queue.submit_many([spec("plain"), bound])
    assert lost == [True]
    assert [one.deduplicated for one in found] == [False, False]
    assert await queue.status("plain") == "complete"
    assert await queue.count("incomplete") == 1


async def test_a_killed_server_loses_nothing_that_was_accepted(own: PostgresServer, make_queue: MakeQueue) -> None:
    hand = await Hand(make_queue(own.url(), **SHORT)).open()
    await hand.queue.submit_many([spec(f"k{number}") for number in range(10)])
    jobs = await hand.take(4)
    waiting = asyncio.create_task(hand.queue.wait("k1", 60))
    await asyncio.to_thread(own.kill)
    settling = [asyncio.create_task(hand.complete(job)) for job in jobs]
    await asyncio.to_thread(own.start)
    assert await asyncio.gather(*settling) == [True] * 4
    assert (await waiting).status is Status.COMPLETE  # type: ignore[union-attr]
    assert keys(await hand.take(6)) == [f"k{number}" for number in range(4, 10)]
    assert hand.lost == []


async def test_enqueueing_into_a_server_that_hangs_raises_at_its_deadline_and_can_be_repeated(
    own: PostgresServer, make_queue: MakeQueue
) -> None:
    one = make_queue(own.url(), enqueue_deadline=1.0)
    await one.submit(spec("warm"))
    own.freeze()
    try:
        before = time.monotonic()
        with pytest.raises(QueueUnavailableError) as caught:
            await one.submit(spec("k"))
        assert time.monotonic() - before < 10
    finally:
        own.thaw()
    assert caught.value.maybe_enqueued
    assert caught.value.job_id == one.job_id("k")
    await eventually(lambda: _accepts(one, "k"), within=30)
    assert own.execute("SELECT count(*) FROM litestar_tasks_jobs WHERE key = 'k'") == [(1,)]


async def _accepts(queue: PostgresQueue, key: str) -> bool:
    try:
        await queue.submit(spec(key))
    except QueueUnavailableError:
        return False
    return True


@pytest.mark.parametrize("how", ["hangs", "is down"])
async def test_a_server_that_is_away_for_longer_than_a_lease_costs_nobody_a_job(
    own: PostgresServer, make_queue: MakeQueue, how: str
) -> None:
    hands = [await Hand(make_queue(own.url(), **SHORT)).open(f"w{number}") for number in range(3)]
    await hands[0].queue.submit_many([spec(f"k{number}") for number in range(6)])
    held = [(hand, job) for hand in hands for job in await hand.take(2)]
    await asyncio.to_thread(own.freeze if how == "hangs" else own.stop)
    await asyncio.sleep(SHORT["lease"] * 1.5)
    await asyncio.to_thread(own.thaw if how == "hangs" else own.start)
    answers = await asyncio.gather(*(hand.complete(job) for hand, job in held))
    assert answers == [True] * 6
    assert [hand.lost for hand in hands] == [[], [], []]
    assert own.execute("SELECT sum(losses) FROM litestar_tasks_jobs") == [(0,)]


async def test_a_table_that_is_locked_for_longer_than_a_lease_costs_nobody_a_lease(
    url: str, make_queue: MakeQueue
) -> None:
    hand = await Hand(make_queue(url, **SHORT)).open()
    await hand.queue.submit(spec("k"))
    (job,) = await hand.take(1)
    with psycopg.connect(url) as operator:  # ALTER TABLE and VACUUM FULL take this lock, too
        operator.execute("LOCK TABLE litestar_tasks_jobs IN ACCESS EXCLUSIVE MODE")
        locked = time.monotonic()

        def is_renewed() -> bool:
            lease = hand.queue.lease()
            return lease is not None and lease.age < SHORT["lease"] < (time.monotonic() - locked) / 2

        await eventually(is_renewed)
    assert await hand.complete(job)
    assert hand.lost == []


async def test_a_statement_that_was_given_up_does_not_wait_for_a_lock_for_ever(url: str) -> None:
    link = Endpoint(url).link()
    try:
        with psycopg.connect(url) as operator:
            operator.execute("LOCK TABLE litestar_tasks_jobs IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(Away):
                await link.ask("SELECT count(*) FROM litestar_tasks_jobs", timeout=0.5)

            async def none_waits() -> bool:
                return rows(url, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]

            assert not await none_waits()
            await eventually(none_waits)
    finally:
        await link.close()


async def test_a_worker_that_died_during_an_outage_is_found_after_it(
    own: PostgresServer, make_queue: MakeQueue
) -> None:
    victim, other = [await Hand(make_queue(own.url(), **SHORT)).open(name) for name in ("victim", "other")]
    await victim.queue.submit(spec("k"))
    await victim.take(1)
    own.freeze()
    await _die(victim)
    await asyncio.sleep(SHORT["lease"] * 1.5)
    own.thaw()
    assert keys(await other.take(1)) == ["k"]


async def test_a_worker_starts_before_its_server(own: PostgresServer, make_queue: MakeQueue) -> None:
    await asyncio.to_thread(own.stop)
    hand = await Hand(make_queue(own.url(), **SHORT)).open()
    claim = asyncio.create_task(hand.take(1))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own.start)
    await eventually(lambda: _accepts(hand.queue, "k"), within=30)
    assert keys(await claim) == ["k"]


async def test_stopping_while_the_server_is_away_names_what_will_run_again(
    own: PostgresServer, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "CLOSING", 0.5)
    hand = await Hand(make_queue(own.url(), **SHORT)).open()
    await hand.queue.submit(spec("k"))
    (job,) = await hand.take(1)
    await asyncio.to_thread(own.stop)
    async with asyncio.timeout(30):
        await hand.queue.close()
    assert not await hand.complete(job)
    assert any(hand.queue.job_id("k") in line and "run again" in line for line in lines(caplog))


async def test_closing_a_connection_gives_up_what_is_done_with_it(url: str) -> None:
    link = Endpoint(url).link()
    for statement in ("SELECT 1", "SELECT pg_sleep(60)"):
        asked = asyncio.create_task(link.ask(statement, timeout=60))
        await asyncio.sleep(0)  # it has begun, to connect or to ask
        await eventually(lambda: link._running is not None)
        await link.close()
        with pytest.raises(BrokerError, match="closed"):
            await asked
        assert link.connection is None
        assert await link.ask("SELECT 1") == [(1,)]
        await link.close()


async def test_nobody_is_let_in_with_a_wrong_name(own: PostgresServer, make_queue: MakeQueue) -> None:
    wrong = own.url().replace("postgres@", "nobody-known:secret@")
    with pytest.raises(BrokerError, match="does not exist") as caught:
        await make_queue(wrong).connect()
    assert "secret" not in str(caught.value)


async def test_what_follows_a_job_and_is_refused_is_given_up_alone_and_said(
    url: str, make_queue: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that another release has written, with a priority that Postgres has no number for."""
    queue = make_queue(url)
    hand = await Hand(queue).open()
    for number, priority in enumerate((0, 2**40, 1)):
        call = {"task": "noop", "queue": "default", "kwargs": {}, "key": f"after {number}", "priority": priority}
        await queue.submit(spec(f"k{number}", meta={FOLLOW_UPS: {"success": [call]}}))
    jobs = await hand.take(3)
    await asyncio.gather(*(hand.complete(job) for job in jobs))
    await eventually(lambda: "is refused, and given up" in caplog.text)
    assert sorted(job.key for job in await hand.take(2)) == ["after 0", "after 2"]
    assert await queue.status("after 1") is None
    assert not await queue.owes()
