"""What is asked of the outbox's table."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, delete, func, select, text, tuple_, update

from litestar_tasks.outbox.models import now_ms

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ("Batch", "Delivered", "Row", "Rows")

AT_ONCE: Final = 200
"""Rows that are delivered together, and transactions that are looked for together, at the most."""
_SAFE: Final = 2000
"""Milliseconds after which a broker that is still the same has the job on its disk, if it is set to have it there."""

_GIVE_UP: Final = text("SET LOCAL idle_in_transaction_session_timeout = 30000")
"""A relay that is frozen, or whose machine is gone, is not to keep its locks."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that waits for its delivery."""

    transaction: str
    number: int
    queue: str
    document: str
    once: bool
    age: int
    """In milliseconds."""

    @property
    def id(self) -> str:
        """Its name, which no other row ever has."""
        return f"{self.transaction}-{self.number}"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Rows that one incarnation of a broker has had for a while."""

    queue: str
    broker: str
    until: int
    """They were delivered at this moment or before."""


class Batch:
    """Rows that are being delivered, in the order of their transactions and within them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._delivered: dict[str | None, list[Row]] = {}
        self.parked: list[tuple[Row, str]] = []
        """Rows that somebody has to decide about, and why."""

    def delivered(self, rows: Iterable[Row], broker: str | None) -> None:
        """Note that an incarnation of the broker has these; None for one that ends with this process."""
        self._delivered.setdefault(broker, []).extend(rows)

    @property
    def settled(self) -> int:
        """How many of them are dealt with."""
        return sum(map(len, self._delivered.values())) + len(self.parked)

    async def write(self, connection: AsyncConnection, table: Table) -> None:
        """Write down what was noted."""
        for broker, rows in self._delivered.items():
            these = _these(table, rows)
            if broker is None:
                await connection.execute(delete(table).where(these))
            else:
                await connection.execute(update(table).where(these).values(delivered=now_ms(), broker=broker))
        for row, reason in self.parked:
            await connection.execute(update(table).where(_these(table, [row])).values(parked=now_ms(), reason=reason))


class Rows:
    """The rows that are not the app's business any more: committed ones.

    Args:
        engine: The database's.
        table: The table.
    """

    def __init__(self, engine: AsyncEngine, table: Table) -> None:
        self._engine = engine
        self._table = table
        self._locks = engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def waiting(
        self, queues: Collection[str], *, transactions: Collection[str] | None = None, older: int = 0
    ) -> AsyncGenerator[Batch]:
        """A batch of rows that wait, the oldest transactions first; what is noted of them is written in the end.

        On Postgres the first row of each transaction is locked within the block, and transactions that somebody else
        has locked are left to them. SQLite knows no such locks, and a transaction that writes keeps out all others: so
        none is open there while the broker is waited for.

        Args:
            queues: The queues of the rows, by their names on the wire.
            transactions: The transactions to look for. Defaults to None: all.
            older: The age of the rows in milliseconds, at least. Defaults to 0.
        """
        if self._locks:
            async with self._engine.begin() as connection:
                await connection.execute(_GIVE_UP)
                batch = Batch(await self._read(connection, queues, transactions, older))
                yield batch
                await batch.write(connection, self._table)
            return
        async with self._engine.connect() as connection:
            batch = Batch(await self._read(connection, queues, transactions, older))
        yield batch
        if batch.settled:
            async with self._engine.begin() as connection:
                await batch.write(connection, self._table)

    async def safe(self, queues: Collection[str]) -> list[Delivered]:
        """What was delivered so long ago that a broker which is still the same keeps it."""
        table = self._table.c
        found = (
            select(table.queue, table.broker, func.max(table.delivered))
            .where(table.delivered <= now_ms() - _SAFE, table.queue.in_(queues))
            .group_by(table.queue, table.broker)
        )
        async with self._engine.connect() as connection:
            return [Delivered(*row) for row in await connection.execute(found)]

    async def remove(self, which: Delivered) -> list[str]:
        """Remove rows that are safe, and return their names."""
        table = self._table.c
        gone = (
            delete(self._table)
            .where(table.queue == which.queue, table.broker == which.broker, table.delivered <= which.until)
            .returning(table.transaction, table.number)
        )
        async with self._engine.begin() as connection:
            return [f"{transaction}-{number}" for transaction, number in await connection.execute(gone)]

    async def deliver_again(self, which: Delivered) -> int:
        """Let the rows wait that a broker was given that may have forgotten them, and return how many they are."""
        table = self._table.c
        back = (
            update(self._table)
            .where(table.queue == which.queue, table.broker == which.broker, table.delivered.is_not(None))
            .values(delivered=None, broker=None)
        )
        async with self._engine.begin() as connection:
            return (await connection.execute(back)).rowcount

    async def parked(self, limit: int) -> list[dict[str, Any]]:
        """The rows that somebody has to decide about, the oldest first."""
        found = (
            select(self._table)
            .where(self._table.c.parked.is_not(None))
            .order_by(self._table.c.transaction, self._table.c.number)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(found)).mappings()]

    async def counts(self, queues: Collection[str]) -> dict[str, int]:
        """How many rows wait, are delivered, are parked, and are of queues that are not these."""
        table = self._table.c
        state = [
            func.count().filter(_pending(self._table, queues)),
            func.count().filter(table.delivered.is_not(None)),
            func.count().filter(table.parked.is_not(None)),
            func.count().filter(table.delivered.is_(None), table.parked.is_(None), table.queue.not_in(queues)),
        ]
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(*state).select_from(self._table))).one()
        return dict(zip(("waiting", "delivered", "parked", "foreign"), row, strict=True))

    async def decide(self, ids: Sequence[str], *, drop: bool) -> int:
        """Let parked rows wait again as if they were new, or remove them; return how many there were."""
        table = self._table.c
        done = 0
        for start in range(0, len(ids), AT_ONCE):
            pairs = [(one.rpartition("-")[0], int(one.rpartition("-")[2])) for one in ids[start : start + AT_ONCE]]
            these = and_(tuple_(table.transaction, table.number).in_(pairs), table.parked.is_not(None))
            again = update(self._table).where(these).values(parked=None, reason=None, created=now_ms())
            async with self._engine.begin() as connection:
                done += (await connection.execute(delete(self._table).where(these) if drop else again)).rowcount
        return done

    async def _read(
        self,
        connection: AsyncConnection,
        queues: Collection[str],
        transactions: Collection[str] | None,
        older: int,
    ) -> list[Row]:
        table = self._table.c
        found = [row.transaction for row in await connection.execute(self._heads(queues, transactions, older))]
        if not found:
            return []
        rows = (
            select(table.transaction, table.number, table.queue, table.document, table.once, now_ms() - table.created)
            .where(_pending(self._table, queues), table.transaction.in_(found))
            .order_by(table.transaction, table.number)
            .limit(AT_ONCE)
        )
        return [Row(*row) for row in await connection.execute(rows)]

    def _heads(self, queues: Collection[str], transactions: Collection[str] | None, older: int) -> Select[Any]:
        """The first rows that wait, of each transaction: who has one locked has its transaction."""
        table, inner = self._table.c, self._table.alias()
        first = (
            select(func.min(inner.c.number))
            .where(_pending(inner, queues), inner.c.transaction == table.transaction)
            .scalar_subquery()
        )
        heads = (
            select(table.transaction)
            .where(_pending(self._table, queues), table.number == first)
            .order_by(table.transaction)
            .limit(AT_ONCE)
        )
        if transactions is not None:
            heads = heads.where(table.transaction.in_(transactions))
        if older:
            heads = heads.where(table.created <= now_ms() - older)
        return heads.with_for_update(skip_locked=True, of=self._table) if self._locks else heads


def _pending(table: Any, queues: Collection[str]) -> ColumnElement[bool]:
    return and_(table.c.delivered.is_(None), table.c.parked.is_(None), table.c.queue.in_(queues))


def _these(table: Table, rows: Sequence[Row]) -> ColumnElement[bool]:
    pairs = [(row.transaction, row.number) for row in rows]
    return and_(tuple_(table.c.transaction, table.c.number).in_(pairs), table.c.delivered.is_(None))
