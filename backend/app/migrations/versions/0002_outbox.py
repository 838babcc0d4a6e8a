"""the outbox of litestar-tasks, as `litestar database make-migrations` wrote it

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "litestar_tasks_outbox",
        sa.Column("transaction", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("once", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=True),
        sa.Column("broker", sa.String(length=200), nullable=True),
        sa.Column("parked", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("transaction", "number", name=op.f("pk_litestar_tasks_outbox")),
    )
    waiting, delivered = sa.text("delivered IS NULL AND parked IS NULL"), sa.text("delivered IS NOT NULL")
    op.create_index(
        "ix_litestar_tasks_outbox_waiting",
        "litestar_tasks_outbox",
        ["transaction", "number"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    op.create_index(
        "ix_litestar_tasks_outbox_delivered",
        "litestar_tasks_outbox",
        ["queue", "delivered"],
        postgresql_where=delivered,
        sqlite_where=delivered,
    )


def downgrade() -> None:
    op.drop_table("litestar_tasks_outbox")
