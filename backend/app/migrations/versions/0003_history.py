"""the history of litestar-tasks, as `litestar database make-migrations` wrote it

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "litestar_tasks_history",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("enqueued", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("stage", sa.SmallInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("correlation", sa.Text(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("withheld", sa.Text(), nullable=True),
        sa.Column("started", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("log", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", "enqueued", name=op.f("pk_litestar_tasks_history")),
    )
    op.create_index("ix_litestar_tasks_history_enqueued", "litestar_tasks_history", ["enqueued"])
    op.create_index("ix_litestar_tasks_history_task", "litestar_tasks_history", ["task", "enqueued"])
    for name, where in (("status", sa.text("status <> 'complete'")), ("tag", sa.text("tag IS NOT NULL"))):
        op.create_index(
            f"ix_litestar_tasks_history_{name}",
            "litestar_tasks_history",
            [name, "enqueued"],
            postgresql_where=where,
            sqlite_where=where,
        )
    op.create_table(
        "litestar_tasks_history_gaps",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_litestar_tasks_history_gaps")),
    )
    op.create_index("ix_litestar_tasks_history_gaps_until", "litestar_tasks_history_gaps", ["until"])


def downgrade() -> None:
    op.drop_table("litestar_tasks_history_gaps")
    op.drop_table("litestar_tasks_history")
