"""The database: one configuration for the web process, the worker and the migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from advanced_alchemy.extensions.litestar import (
    AlembicAsyncConfig,
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
)
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.settings import Settings

__all__ = ("database_config",)

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def database_config(settings: Settings) -> SQLAlchemyAsyncConfig:
    """The configuration for Advanced Alchemy. Nothing connects before the app starts.

    Routes commit what they change themselves (the session of a request ends without a commit): a job that is not part
    of the transaction may only be enqueued after the rows that it needs are committed. The session of a task commits
    when the task succeeds.
    """
    config = SQLAlchemyAsyncConfig(
        connection_string=settings.database_url,
        create_engine_callable=create_engine,
        # As many connections as a worker process runs jobs at the same time; see app/queue/config.py.
        engine_config=EngineConfig(pool_size=10, max_overflow=20),
        # Rows can be read after the commit, e.g. for the response: a lazy refresh would need an await.
        session_config=AsyncSessionConfig(expire_on_commit=False),
        create_all=False,  # migrations do that: python -m app.manage migrate
        alembic_config=AlembicAsyncConfig(
            # The file's format knows "%" as the start of a reference; a folder's name may hold one.
            script_location=str(MIGRATIONS).replace("%", "%%"),
            script_config=str(MIGRATIONS / "alembic.ini"),
            compare_type=True,
        ),
        set_default_exception_handler=False,  # app/errors.py has ours
    )
    # Advanced Alchemy closes the engine that it finds under this name, but numbers the name from a process's second
    # configuration on. Tests make many.
    config.engine_app_state_key = config.engine_dependency_key
    return config


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """SQLAlchemy's engine; on SQLite with what lets a web process and workers share one file."""
    engine = create_async_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")  # a writer waits up to 10 s for another one
    cursor.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
