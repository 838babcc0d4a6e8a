"""The tables of the history, in the metadata of the app's own models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Index, Integer, SmallInteger, String, Text, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from litestar_tasks.outbox.tables import declared

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ("COMPLETE", "history_tables")

COMPLETE: Final = "complete"
"""The status of which there is most."""


class HistoryRow:
    """One life of a job. Moments are milliseconds since the epoch, by the clock of the process that saw them."""

    __tablename__: str

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    enqueued: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """With the id it names the life: a key can be used again, and a job be run again."""
    task: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(String(255))
    """The queue's label."""
    status: Mapped[str] = mapped_column(String(20))
    stage: Mapped[int] = mapped_column(SmallInteger)
    """How far it has come: 0 enqueued, 1 attempted, 2 ended."""
    changed: Mapped[int] = mapped_column(BigInteger)
    """When the last of it happened."""
    tag: Mapped[str | None] = mapped_column(Text)
    correlation: Mapped[str | None] = mapped_column(Text)
    parent: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(Integer)
    arguments: Mapped[str] = mapped_column(Text)
    """As JSON, without what is secret."""
    withheld: Mapped[str | None] = mapped_column(Text)
    """The names of arguments that are not stored as they were, as JSON."""
    started: Mapped[int | None] = mapped_column(BigInteger)
    ended: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    log: Mapped[str | None] = mapped_column(Text)
    """The attempts as JSON, without the one that it ended with, of which the columns say all."""
    error_type: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    worker: Mapped[str | None] = mapped_column(Text)
    result: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805  # SQLAlchemy's way
        name = f"ix_{cls.__tablename__}"
        tagged, uneven = text("tag IS NOT NULL"), text(f"status <> '{COMPLETE}'")
        # Each search walks down one of these from the newest. They are few and slim, as each job pays for them. What is
        # complete is found without one of its own: that is most of what there is.
        return (
            Index(f"{name}_enqueued", "enqueued"),
            Index(f"{name}_task", "task", "enqueued"),
            Index(f"{name}_status", "status", "enqueued", postgresql_where=uneven, sqlite_where=uneven),
            Index(f"{name}_tag", "tag", "enqueued", postgresql_where=tagged, sqlite_where=tagged),
        )


class HistoryGap:
    """What a process could not record, since the database did not answer for too long."""

    __tablename__: str

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    since: Mapped[int] = mapped_column(BigInteger)
    until: Mapped[int] = mapped_column(BigInteger)
    lost: Mapped[int] = mapped_column(BigInteger)
    """How many changes of jobs."""
    process: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805  # SQLAlchemy's way
        return (Index(f"ix_{cls.__tablename__}_until", "until"),)


def history_tables(metadata: MetaData, name: str = "litestar_tasks_history") -> tuple[Table, Table]:
    """The tables in an app's metadata: jobs and gaps; declared there, as Advanced Alchemy's models, if not there yet.

    ``TasksPlugin`` does this when the app is made. Migrations that run without it call it themselves, in their
    ``env.py``.

    Args:
        metadata: That of the app's models.
        name: The table's name, as in ``HistoryConfig``. Defaults to "litestar_tasks_history".

    Raises:
        ConfigurationError: The metadata has another table of such a name.
    """
    jobs = declared(metadata, name, HistoryRow, owner="history")
    return jobs, declared(metadata, f"{name}_gaps", HistoryGap, owner="history")
