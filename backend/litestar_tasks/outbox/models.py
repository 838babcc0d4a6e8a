"""The outbox's table, in the metadata of the app's own models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, Index, Integer, String, Text, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.sql.functions import GenericFunction

from litestar_tasks.outbox.tables import declared

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ("now_ms", "outbox_table")


class now_ms(GenericFunction[int]):  # noqa: N801  # a function of SQL
    """The database's clock, in milliseconds since the epoch: the one clock that all processes share."""

    type = BigInteger()
    inherit_cache = True
    _register = False


@compiles(now_ms, "postgresql")
def _on_postgres(_element: now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(now_ms, "sqlite")
def _on_sqlite(_element: now_ms, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS integer)"


class OutboxRow:
    """One job that is to be. What is delivered is kept until the broker cannot forget it any more."""

    __tablename__: str

    transaction: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Names the transaction that wrote it. Later ones sort behind."""
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """Its place among the rows of its transaction."""
    queue: Mapped[str] = mapped_column(String(255))
    """The queue's name on the wire."""
    task: Mapped[str] = mapped_column(Text)
    document: Mapped[str] = mapped_column(Text)
    """The job, as the broker is to store it."""
    once: Mapped[bool] = mapped_column(Boolean)
    created: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    delivered: Mapped[int | None] = mapped_column(BigInteger)
    broker: Mapped[str | None] = mapped_column(String(200))
    """The incarnation of the broker that it was delivered to."""
    parked: Mapped[int | None] = mapped_column(BigInteger)
    """Since when it waits for somebody to decide."""
    reason: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805  # SQLAlchemy's way
        waiting, delivered = text("delivered IS NULL AND parked IS NULL"), text("delivered IS NOT NULL")
        name = f"ix_{cls.__tablename__}"
        return (
            # However many wait during an outage, few are looked at.
            Index(f"{name}_waiting", "transaction", "number", postgresql_where=waiting, sqlite_where=waiting),
            Index(f"{name}_delivered", "queue", "delivered", postgresql_where=delivered, sqlite_where=delivered),
        )


def outbox_table(metadata: MetaData, name: str = "litestar_tasks_outbox") -> Table:
    """The table in an app's metadata; declared there, as a model of Advanced Alchemy's, if it is not yet.

    ``TasksPlugin`` does this when the app is made. Migrations that run without it call it themselves, in their
    ``env.py``.

    Args:
        metadata: That of the app's models.
        name: The table's name, as in ``OutboxConfig``. Defaults to "litestar_tasks_outbox".

    Raises:
        ConfigurationError: The metadata has another table of that name.
    """
    return declared(metadata, name, OutboxRow, owner="outbox")
