"""The app's database: which one it is, and whether an outbox can be in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.outbox.session import session_configs

if TYPE_CHECKING:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
    from sqlalchemy import URL, Table
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ("check_engine", "find_config", "is_missing", "place_of", "reason_of")

_ENOUGH = {
    "outbox": "use Postgres, or SQLite in a file; or leave TasksConfig.outbox out, and enqueue after the commit",
    "history": "use Postgres, or SQLite in a file; or leave TasksConfig.history out",
}


def find_config(plugins: Iterable[object], session: str, part: str = "outbox") -> SQLAlchemyAsyncConfig:
    """Advanced Alchemy's configuration of the database whose sessions an app injects under a name.

    Raises:
        ConfigurationError: There is none; names those that there are.
    """
    known = session_configs(plugins)
    if session in known:
        return known[session]
    found = f"it injects {', '.join(map(repr, sorted(known)))}" if known else "it has no SQLAlchemyPlugin"
    raise ConfigurationError(
        f"the {part} is for the sessions that the app injects as {session!r}, and it injects none of that name "
        f"({found}); name another one, {part.title()}Config(session=…), or add a SQLAlchemyPlugin with a "
        "SQLAlchemyAsyncConfig"
    )


def check_engine(engine: AsyncEngine, part: str = "outbox") -> None:
    """Refuse a database that a part of this package was not tested with, or cannot be in.

    Raises:
        ConfigurationError: Says which it is, and what to do.
    """
    url, dialect = engine.url, engine.dialect.name
    if dialect not in ("postgresql", "sqlite"):
        raise ConfigurationError(f"the {part} is not tested on {dialect} ({url.drivername}); {_ENOUGH[part]}")
    if dialect == "sqlite" and (url.database in (None, "", ":memory:") or isinstance(engine.pool, StaticPool)):
        raise ConfigurationError(
            f"the {part}'s database is an SQLite in memory, whose one connection all transactions would share; "
            f"{_ENOUGH[part]}"
        )


async def is_missing(engine: AsyncEngine, table: Table) -> bool:
    """Whether the database lacks the table, or a column of it.

    Raises:
        SQLAlchemyError, OSError: The database cannot be asked.
    """

    def look(connection: Connection) -> bool:
        inspector: Any = inspect(connection)
        if not inspector.has_table(table.name, schema=table.schema):
            return True
        columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
        return not columns >= set(table.columns.keys())

    async with engine.connect() as connection:
        return await connection.run_sync(look)


def place_of(bind: Engine | Connection) -> tuple[object, ...]:
    """Where a database is, whichever driver and user reach it."""
    url: URL = bind.engine.url
    if url.get_backend_name() == "sqlite":
        return ("sqlite", url.database)
    return (url.get_backend_name(), url.host or url.query.get("host"), url.port or 5432, url.database)


def reason_of(error: BaseException) -> str:
    """What went wrong with the database, in one line, without the statement and its parameters."""
    cause = getattr(error, "orig", None) if isinstance(error, SQLAlchemyError) else None
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(cause or error).__name__
