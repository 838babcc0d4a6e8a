"""How Alembic runs the migrations: with the engine and the settings of `app.db`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from advanced_alchemy.base import metadata_registry
from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

# Import all models, so that the metadata knows their tables.
from app.campaigns import models as campaign_models  # noqa: F401
from app.payments import models as payment_models  # noqa: F401
from app.users import models as user_models  # noqa: F401
from litestar_tasks.outbox.history import history_tables
from litestar_tasks.outbox.models import outbox_table

if TYPE_CHECKING:
    from advanced_alchemy.alembic.commands import AlembicCommandConfig

config = cast("AlembicCommandConfig", context.config)

# The app's plugin declares them, too; `python -m app.manage migrate` makes no app.
outbox_table(metadata_registry.get(config.bind_key))
history_tables(metadata_registry.get(config.bind_key))


def run_offline() -> None:
    """Write the migrations as SQL, without a connection."""
    _configure(url=config.db_url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    """Run the migrations on the database."""
    engine = cast("AsyncEngine", config.engine)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


def _run(connection: Connection) -> None:
    _configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


def _configure(**options: object) -> None:
    context.configure(
        target_metadata=metadata_registry.get(config.bind_key),
        compare_type=config.compare_type,
        version_table=config.version_table_name,
        version_table_pk=config.version_table_pk,
        render_as_batch=config.render_as_batch,
        user_module_prefix=config.user_module_prefix,
        **options,  # type: ignore[arg-type]  # passed through
    )


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(run_online())
