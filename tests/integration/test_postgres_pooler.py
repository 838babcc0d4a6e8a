"""Queues on a Postgres that is reached through PgBouncer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from litestar_tasks import Registry
from litestar_tasks.exceptions import BrokerError
from litestar_tasks.job import JobSpec
from litestar_tasks.queues.base import Settlement, WorkerHooks
from litestar_tasks.queues.postgres import PostgresQueue
from litestar_tasks.queues.postgres.migrations import migrate
from tests.integration.conftest import eventually
from tests.servers import PgBouncer, PostgresServer, pgbouncer, postgres_binaries

pytestmark = [
    pytest.mark.skipif(postgres_binaries() is None, reason="Postgres is not installed"),
    pytest.mark.skipif(pgbouncer() is None, reason="PgBouncer is not installed (Debian: apt-get install pgbouncer)"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    one = PostgresServer()
    migrate(one.url(), lambda _: None)
    yield one
    one.close()


@pytest.fixture
def pooler(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    one = PgBouncer(server, request.param)
    yield one
    one.close()


@pytest.mark.parametrize("pooler", ["session"], indirect=True)
async def test_in_session_mode_everything_works_and_the_pooler_is_said(
    pooler: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.queues")
    producer, worker = (
        PostgresQueue(pooler.url("postgres"), registry=Registry("test"), lease=1.5, renew_every=0.25) for _ in range(2)
    )
    try:
        await producer.connect()
        aborted: list[str] = []
        hooks = WorkerHooks(abort=lambda key, _: aborted.append(key), lost=lambda _: None)
        await worker.open("pooled", hooks)
        await producer.submit_many([JobSpec(task="noop", kwargs={}, key=f"k{number}") for number in range(20)])
        jobs = []
        async with asyncio.timeout(20):
            while len(jobs) < 20:
                jobs += await worker.claim(20)
        lease = worker._opened()._lease
        renewed = lease.renewed
        await eventually(lambda: lease.renewed > renewed)
        assert await producer.cancel("k0", "not wanted")
        await eventually(lambda: aborted == ["k0"])  # said by a notification
        waiting = asyncio.create_task(producer.wait("k1", 20))
        for job in jobs:
            job.status = job.status.COMPLETE
            assert await worker.settle(job, Settlement.COMPLETE)
        assert (ended := await waiting) is not None
        assert ended.status == "complete"
    finally:
        await worker.disconnect()
        await producer.disconnect()
    assert "is reached through a pooler such as PgBouncer" in caplog.text


@pytest.mark.parametrize("pooler", ["transaction", "statement"], indirect=True)
async def test_in_another_mode_it_is_refused_at_the_start_with_what_to_do(pooler: PgBouncer) -> None:
    queue = PostgresQueue(pooler.url("postgres"), registry=Registry("test"))
    try:
        with pytest.raises(BrokerError, match=r"pooler in transaction mode, .*; set it to session mode"):
            await queue.connect()
    finally:
        await queue.disconnect()
