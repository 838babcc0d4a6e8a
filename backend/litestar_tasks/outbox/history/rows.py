"""What is asked of the tables of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import delete, insert, literal_column, or_, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from litestar_tasks.outbox.history.models import COMPLETE

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Executable, Table, TextClause
    from sqlalchemy.ext.asyncio import AsyncEngine

    from litestar_tasks.outbox.history.entries import Entry

__all__ = ("HistoryRows", "Wanted")

_DELETED: Final = 1_000
"""Rows that go in one statement, at the most."""
_encoder: Final = msgspec.json.Encoder()  # of texts and integers alone, which need no closer look
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
        # In one order everywhere: processes that write of the same jobs would lock each other's rows out otherwise.
        ordered = sorted(entries, key=itemgetter("id", "enqueued"))
        async with self._engine.begin() as connection:
            if ordered:
                await connection.execute(self._upsert, {"rows": _encoder.encode(ordered).decode()})
            if gap is not None:
                await connection.execute(insert(self._gaps), gap)

    async def search(self, wanted: Wanted, limit: int) -> list[Mapping[str, Any]]:
        """Rows, the newest first."""
        rows = self._table.c
        where: list[ColumnElement[bool]] = [rows[name] == value for name, value in wanted.same.items()]
        if wanted.same.get("status", COMPLETE) != COMPLETE:
            where.append(rows.status != literal_column(f"'{COMPLETE}'"))  # spelled as by the index of those
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
            before, surplus = before or 0, 0
            if keep is not None:
                newest = select(rows.enqueued).order_by(rows.enqueued.desc()).offset(keep).limit(1)
                if (last := await connection.scalar(newest)) is not None:
                    surplus = last + 1
            # What is too old is found by when it was enqueued. The few jobs that went on for long are passed by.
            bound = max(before, surplus)
            which = (rows.enqueued < bound, or_(rows.enqueued < surplus, rows.changed < before))
            old = select(rows.id, rows.enqueued).where(*which).order_by(rows.enqueued).limit(_DELETED)
            removed = await connection.execute(delete(self._table).where(tuple_(rows.id, rows.enqueued).in_(old)))
            gaps = self._gaps.c
            ended = select(gaps.id).where(gaps.until < bound).limit(_DELETED)
            await connection.execute(delete(self._gaps).where(gaps.id.in_(ended)))
            return removed.rowcount

    async def _ask(self, query: Executable) -> list[Mapping[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]


def _from_json(dialect: str, table: Table) -> TextClause:
    """The source of ``INSERT … SELECT``: one parameter for all rows, which costs this process least.

    A statement for each row would also give up Python's lock for each, and a busy event loop returns it after 5 ms.
    """
    if dialect == "postgresql":
        kinds: Any = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
        columns = ", ".join(f"{column.name} {column.type.compile(kinds)}" for column in table.columns)
        return text(f"SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS entry ({columns})")  # noqa: S608  # names and types of our own columns
    columns = ", ".join(f"json_extract(value, '$.{column.name}')" for column in table.columns)
    # Without a condition SQLite takes ON CONFLICT for that of a join.
    return text(f"SELECT {columns} FROM json_each(:rows) WHERE true")  # noqa: S608  # as above


def _upsert(dialect: str, table: Table) -> Executable:
    """An insertion that leaves rows alone that are further on."""
    names = [column.name for column in table.columns]
    insertion: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    statement = insertion.from_select(names, _from_json(dialect, table).columns(*table.columns))
    new = statement.excluded
    return statement.on_conflict_do_update(  # type: ignore[no-any-return]  # one of the two dialects'
        index_elements=["id", "enqueued"],
        set_={name: new[name] for name in names if name not in ("id", "enqueued")},
        where=tuple_(new.stage, new.changed) >= tuple_(table.c.stage, table.c.changed),
    )
