"""The outbox of one running app: it takes calls into transactions, delivers them, and says what it holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from litestar_tasks.exceptions import BrokerError, QueueUnavailableError
from litestar_tasks.moments import moment_of
from litestar_tasks.outbox.database import AppDatabase, is_away
from litestar_tasks.outbox.models import outbox_table
from litestar_tasks.outbox.outage import Outage
from litestar_tasks.outbox.relay import Relay
from litestar_tasks.outbox.rows import Rows
from litestar_tasks.outbox.writer import Open, Writer

if TYPE_CHECKING:
    from litestar_tasks.config import OutboxConfig
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.broker import Broker

__all__ = ("Database", "Outbox", "OutboxCounts", "ParkedRow")

logger = logging.getLogger("litestar_tasks.outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRow:
    """A row that is not delivered before somebody has decided about it."""

    id: str
    """Names it for ``retry`` and ``drop``."""
    queue: str
    """The queue's name on the wire."""
    task: str
    """The task's name."""
    job: str
    """The job, as the JSON that the broker would store."""
    created: datetime
    """When it was written, in UTC."""
    parked: datetime
    """Since when it waits, in UTC."""
    reason: str
    """Why: it is "doubtful", "unreadable" or "refused", with what was found behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """How many rows there are."""

    waiting: int
    """To be delivered."""
    delivered: int
    """Kept until the broker cannot forget them any more."""
    parked: int
    """Somebody has to decide about."""
    foreign: int
    """Of queues that this app does not have: another app's, or those of a queue that was removed or renamed."""


class Database(AppDatabase):
    """The database of an app's outbox, known before anything connects. Its table is declared by this.

    Args:
        settings: The outbox's settings.
        plugins: The app's plugins.

    Raises:
        ConfigurationError: No plugin injects sessions of the configured name, or the table's name is taken.
    """

    def __init__(self, settings: OutboxConfig, plugins: Iterable[object]) -> None:
        super().__init__("outbox", settings.session, plugins)
        self.settings = settings
        self.table = outbox_table(self.metadata, settings.table)
        self.tables = (self.table,)


class Outbox:
    """The outbox of one app on one event loop.

    Args:
        database: Where it is.
        broker: Where its jobs go.

    Attributes:
        writer: Takes calls into transactions.
    """

    def __init__(self, database: Database, broker: Broker) -> None:
        self._database = database
        self._engine = database.engine
        self._rows = Rows(self._engine, database.table)
        self._outage = Outage("outbox", "Its rows wait, jobs go on")
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._relay: Relay | None = None
        self._direct: bool | None = None
        """Whether the broker is this very database; None while that is not known."""
        self.writer = Writer(
            database.config,
            self._engine,
            database.table,
            find=broker.find,
            store=_store,
            is_direct=lambda: bool(self._direct),
            committed=self._committed,
            in_requests=database.settings.in_requests,
        )

    @asynccontextmanager
    async def running(self, *, sweeping: bool) -> AsyncGenerator[None, None]:
        """Deliver what is committed, for the length of a block.

        Args:
            sweeping: Whether to deliver also what other processes have left, as workers do.

        Raises:
            ConfigurationError: An outbox cannot be in that database.
            StartupError: The table is missing.
        """
        self._database.check()
        try:
            await self._database.inspect()
            await self._find_out()
        except Exception as error:
            if not is_away(error):
                raise
            self._outage.failed(error)  # it is waited for: jobs need it no more than the app
        self._relay = Relay(self._rows, self._queues, self._outage, ready=self._find_out, sweeping=sweeping)
        self._relay.start()
        try:
            yield
        finally:
            await self._relay.close()
            self._relay = None

    async def flush(self) -> None:
        """Deliver all that is committed, as far as the broker and the database answer."""
        if self._relay is not None:
            await self._relay.flush()

    async def counts(self) -> OutboxCounts:
        """How many rows there are.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return OutboxCounts(**await self._rows.counts(list(self._queues)))

    async def parked(self, *, limit: int = 100) -> list[ParkedRow]:
        """The rows that somebody has to decide about, the oldest first.

        Args:
            limit: How many at the most. Defaults to 100.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return [_parked_row(row) for row in await self._rows.parked(limit)]

    async def retry(self, ids: Sequence[str]) -> int:
        """Deliver parked rows after all. What became a job before may become one again.

        Args:
            ids: Their ids.

        Returns:
            How many of them were parked.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return await self._rows.decide(ids, drop=False)

    async def drop(self, ids: Sequence[str]) -> int:
        """Remove parked rows: they never become jobs, unless they did before.

        Args:
            ids: Their ids.

        Returns:
            How many of them were parked.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return await self._rows.decide(ids, drop=True)

    @property
    def _queues(self) -> Mapping[str, TaskQueue]:
        return {queue.name: queue for queue in self._broker.queues.values()}

    async def _find_out(self) -> None:
        """Find out whether the broker is this very database, as soon as both answer."""
        if self._direct is not None:
            return
        queue: Any = next(iter(self._broker.queues.values()), None)
        if self._engine.dialect.name != "postgresql" or not hasattr(queue, "insertions"):
            self._direct = False
            return
        from litestar_tasks.outbox.direct import is_same

        try:
            self._direct = await is_same(self._engine, queue)
        except (QueueUnavailableError, BrokerError):
            return
        if self._direct:
            logger.info("the outbox is in the broker's own database: jobs are written there in the app's transactions")

    def _committed(self, opened: Open) -> None:
        if opened.rows and self._relay is not None:
            self._relay.tell(opened.transaction)
        announcing: set[Any] = set(opened.queues)  # not within the transaction, where all commits would wait for it
        for queue in announcing:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(queue.announce)


async def _store(*args: Any) -> Any:
    from litestar_tasks.outbox.direct import store  # with the driver of the broker

    return await store(*args)


def _parked_row(row: Mapping[str, Any]) -> ParkedRow:
    return ParkedRow(
        id=f"{row['transaction']}-{row['number']}",
        queue=row["queue"],
        task=row["task"],
        job=row["document"],
        created=moment_of(row["created"]),
        parked=moment_of(row["parked"]),
        reason=row["reason"],
    )
