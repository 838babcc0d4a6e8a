"""The app's database: which one it is, and whether a part of this package can be in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from litestar_tasks.exceptions import ConfigurationError, StartupError
from litestar_tasks.outbox.session import session_configs

if TYPE_CHECKING:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
    from sqlalchemy import URL, MetaData, Table
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ("AppDatabase", "is_away", "place_of", "reason_of")

_WITHOUT = {
    "outbox": "leave TasksConfig.outbox out, and enqueue after the commit",
    "history": "leave TasksConfig.history out",
}


class AppDatabase:
    """The app's database as a part of this package needs it, known before anything connects.

    Args:
        part: Which part, "outbox" or "history".
        session: The name under which the app injects sessions of the database.
        plugins: The app's plugins.

    Raises:
        ConfigurationError: No plugin injects sessions of that name.
    """

    tables: tuple[Table, ...]
    """What the part has there, which it declares."""

    def __init__(self, part: str, session: str, plugins: Iterable[object]) -> None:
        self._part = part
        self.config = _find_config(part, session, plugins)
        self.metadata = cast("MetaData", self.config.metadata)

    @property
    def engine(self) -> AsyncEngine:
        """The app's engine."""
        return self.config.get_engine()

    def check(self) -> None:
        """Refuse a database that this package was not tested with, or that the part cannot be in.

        Raises:
            ConfigurationError: Says which it is, and what to do.
        """
        url, dialect, part = self.engine.url, self.engine.dialect.name, self._part
        remedy = f"use Postgres, or SQLite in a file; or {_WITHOUT[part]}"
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"the {part} is not tested on {dialect} ({url.drivername}); {remedy}")
        if dialect == "sqlite" and (url.database in (None, "", ":memory:") or isinstance(self.engine.pool, StaticPool)):
            raise ConfigurationError(
                f"the {part}'s database is an SQLite in memory, whose one connection all transactions would share; "
                f"{remedy}"
            )

    async def inspect(self) -> None:
        """Refuse a database without the tables.

        Raises:
            StartupError: One is missing.
            Exception: The database does not answer; see ``is_away``.
        """
        for table in self.tables:
            if await _is_missing(self.engine, table):
                error = ConfigurationError(
                    f"the {self._part}'s table {table.name!r} is missing from {self.engine.url.render_as_string()}, or "
                    "is not as this release needs it; make it by the app's migrations: litestar database "
                    "make-migrations, then litestar database upgrade"
                )
                raise StartupError([error])


def _find_config(part: str, session: str, plugins: Iterable[object]) -> SQLAlchemyAsyncConfig:
    """Advanced Alchemy's configuration of the database whose sessions an app injects under a name."""
    known = session_configs(plugins)
    if session in known:
        return known[session]
    found = f"it injects {', '.join(map(repr, sorted(known)))}" if known else "it has no SQLAlchemyPlugin"
    raise ConfigurationError(
        f"the {part} is for the sessions that the app injects as {session!r}, and it injects none of that name "
        f"({found}); name another one, {part.title()}Config(session=…), or add a SQLAlchemyPlugin with a "
        "SQLAlchemyAsyncConfig"
    )


async def _is_missing(engine: AsyncEngine, table: Table) -> bool:
    """Whether the database lacks the table, or a column of it."""

    def look(connection: Connection) -> bool:
        inspector: Any = inspect(connection)
        if not inspector.has_table(table.name, schema=table.schema):
            return True
        columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
        return not columns >= set(table.columns.keys())

    async with engine.connect() as connection:
        return await connection.run_sync(look)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database does not answer, or refuses to.

    What asyncpg raises while it connects, to a server that is just starting, SQLAlchemy lets through as it is.
    """
    if isinstance(error, SQLAlchemyError | OSError | TimeoutError):
        return True
    return isinstance(error, Exception) and type(error).__module__.startswith("asyncpg.")


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
