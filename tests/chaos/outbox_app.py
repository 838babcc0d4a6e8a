"""An app that enqueues within the transactions of its database, and a producer that anything may happen to.

The rows of ``paid`` are what was committed; the ledger has a line for each run of their jobs, under
``<row>=<job key>``.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from litestar_tasks import CurrentJob, OutboxConfig, Registry, TasksConfig, TasksPlugin

registry = Registry("outbox-chaos")


def note(what: str, row: str, job: CurrentJob) -> None:
    line = f"{what} {row}={job.id.rpartition(':')[2]} {os.getpid()} {time.monotonic()}\n".encode()
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line)
    finally:
        os.close(ledger)


@registry.task(timeout=None)
async def receipt(*, row: str, seconds: float, job: CurrentJob) -> None:
    note("start", row, job)
    await asyncio.sleep(seconds)
    note("end", row, job)


@registry.task(queue="mail", timeout=None)
async def mail(*, row: str, seconds: float, job: CurrentJob) -> None:
    note("start", row, job)
    await asyncio.sleep(seconds)
    note("end", row, job)


def create_engine(url: str, **options: Any) -> AsyncEngine:
    engine = create_async_engine(url, **options)

    def set_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 20000")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", set_up)
    return engine


def create_config() -> SQLAlchemyAsyncConfig:
    return SQLAlchemyAsyncConfig(
        connection_string=os.environ["DATABASE_URL"],
        create_engine_callable=create_engine,
        engine_config=EngineConfig(pool_size=5),
    )


def create_app(config: SQLAlchemyAsyncConfig | None = None) -> Litestar:
    tasks = TasksConfig(
        registry=registry,
        broker_url=os.environ["BROKER_URL"],
        queue_configs=registry.queue_configs(mail={"shutdown_grace_period_s": 5}),
        outbox=OutboxConfig(),
        lease=float(os.environ["LEASE"]),
        dashboard=None,
    )
    return Litestar(plugins=[SQLAlchemyPlugin(config or create_config()), TasksPlugin(tasks)], logging_config=None)


async def pay(session: AsyncSession, row: str, chance: random.Random) -> None:
    await session.execute(text("INSERT INTO paid VALUES (:row)"), {"row": row})
    task = chance.choice((receipt, mail))
    await task.using(session=session).enqueue(row=row, seconds=chance.random() ** 4 / 5)


async def transact(session: AsyncSession, row: str, chance: random.Random) -> None:
    """One transaction in three is rolled back, and of the others one in four has a savepoint that is."""
    fate = chance.random()
    await pay(session, row, chance)
    if fate < 1 / 3:
        await session.rollback()
        return
    if fate < 1 / 2:
        async with session.begin_nested() as savepoint:
            await pay(session, f"{row}-undone", chance)
            await savepoint.rollback()
        await pay(session, f"{row}-second", chance)
    await session.commit()


async def produce(name: str) -> None:
    """Transactions, one after the other, until a file says that it is enough."""
    chance, config, number = random.Random(name), create_config(), 0
    plugin = create_app(config).plugins.get(TasksPlugin)
    enough = Path(os.environ["ENOUGH"]).exists
    async with plugin.attached():
        while not enough():
            number += 1
            try:
                async with config.get_session() as session:
                    await transact(session, f"{name}.{number}", chance)
            except Exception as error:  # whether it was committed, the database knows
                print(f"{name}.{number}: {error!r}"[:300], flush=True)
                await asyncio.sleep(0.1)
            else:
                await asyncio.sleep(chance.random() / 100)
    await config.get_engine().dispose()


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1]))
