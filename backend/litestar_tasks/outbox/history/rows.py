"""What is asked of the tables of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, insert, or_, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from litestar_tasks.queues.records import to_json

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Executable, Table, TextClause
    from sqlalchemy.ext.asyncio import AsyncEngine

    from litestar_tasks.outbox.history.entries import Entry

__all__ = ("HistoryRows", "Wanted")

_DELETED: Final = 1_000
"""Rows that go in one statement, at the most."""
_MINE_ALONE: Final = text("SELECT pg_try_advisory_xact_lock(hashtext(:name))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a search is for. Moments are milliseconds."""

    same: Mapping[str, str]
    """Columns that have exactly this value."""
    since: int | None
    until: int | None
    text: str | None
    before: tuple[int, str] | None
    """The moment and the id of the last row of the page before."""


class HistoryRows:
    """The rows of a history.

    Args:
        engine: The app's engine.
        table: The jobs.
        gaps: The gaps.
    """

    def __init__(self, engine: AsyncEngine, table: Table, gaps: Table) -> None:
        self._engine = engine
        self._table = table
        self._gaps = gaps
        self._upsert = _upsert(engine.dialect.name, table)

    async def write(self, entries: Sequence[Entry], gap: Entry | None = None) -> None:
        """Write what is known of jobs, unless more is known there; and, with it, a gap."""
        async with self._engine.begin() as connection:
            if entries:
                await connection.execute(self._upsert, self._parameters(entries))
            if gap is not None:
                await connection.execute(insert(self._gaps), gap)

    async def search(self, wanted: Wanted, limit: int) -> list[Mapping[str, Any]]:
        """Rows, the newest first."""
        rows = self._table.c
        where: list[ColumnElement[bool]] = [rows[name] == value for name, value in wanted.same.items()]
        if wanted.since is not None:
            where.append(rows.enqueued >= wanted.since)
        if wanted.until is not None:
            where.append(rows.enqueued < wanted.until)
        if wanted.text:
            searched = (rows.id, rows.task, rows.tag, rows.arguments, rows.error, rows.result)
            where.append(or_(*(one.icontains(wanted.text, autoescape=True) for one in searched)))
        if wanted.before is not None:
            where.append(tuple_(rows.enqueued, rows.id) < tuple_(*wanted.before))
        query = select(self._table).where(*where).order_by(rows.enqueued.desc(), rows.id.desc()).limit(limit)
        return await self._ask(query)

    async def lives(self, job_id: str, limit: int) -> list[Mapping[str, Any]]:
        """The lives of a job, the last first."""
        rows = self._table.c
        return await self._ask(select(self._table).where(rows.id == job_id).order_by(rows.enqueued.desc()).limit(limit))

    async def gaps(self, limit: int) -> list[Mapping[str, Any]]:
        """The gaps, the last first."""
        return await self._ask(select(self._gaps).order_by(self._gaps.c.until.desc()).limit(limit))

    async def remove(self, before: int | None, keep: int | None) -> int:
        """Remove a bounded number of rows that are too old, or too many, and return how many there were.

        On Postgres nothing is removed where another process is at it.
        """
        rows = self._table.c
        async with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql" and not await connection.scalar(
                _MINE_ALONE, {"name": f"litestar-tasks {self._table.fullname}"}
            ):
                return 0
            if keep is not None:
                newest = select(rows.changed).order_by(rows.changed.desc()).offset(keep).limit(1)
                if (last := await connection.scalar(newest)) is not None:
                    before = max(before or 0, last + 1)
            if before is None:
                return 0
            old = select(rows.id, rows.enqueued).where(rows.changed < before).order_by(rows.changed).limit(_DELETED)
            removed = await connection.execute(delete(self._table).where(tuple_(rows.id, rows.enqueued).in_(old)))
            gaps = self._gaps.c
            ended = select(gaps.id).where(gaps.until < before).limit(_DELETED)
            await connection.execute(delete(self._gaps).where(gaps.id.in_(ended)))
            return removed.rowcount

    def _parameters(self, entries: Sequence[Entry]) -> Any:
        return {"rows": to_json(entries).decode()} if self._engine.dialect.name == "postgresql" else entries

    async def _ask(self, query: Executable) -> list[Mapping[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]


def _from_json(table: Table) -> TextClause:
    """The source of ``INSERT … SELECT`` on Postgres: one parameter for all rows, which saves most of the time."""
    kinds: Any = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    columns = ", ".join(f"{column.name} {column.type.compile(kinds)}" for column in table.columns)
    return text(f"SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS entry ({columns})")  # noqa: S608  # names and types of our own columns


def _upsert(dialect: str, table: Table) -> Executable:
    """An insertion that leaves rows alone that are further on."""
    names = [column.name for column in table.columns]
    if dialect == "postgresql":
        source = _from_json(table).columns(*table.columns)
        statement: Any = postgresql.insert(table).from_select(names, source)
    else:
        statement = sqlite.insert(table)
    new = statement.excluded
    return statement.on_conflict_do_update(  # type: ignore[no-any-return]  # one of the two dialects'
        index_elements=["id", "enqueued"],
        set_={name: new[name] for name in names if name not in ("id", "enqueued")},
        where=tuple_(new.stage, new.changed) >= tuple_(table.c.stage, table.c.changed),
    )
