"""Memories expire and are retired; what a request with a key was answered; events of one namespace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.add_column("memories", sa.Column("expires", sa.Double, nullable=True))
    op.add_column("memories", sa.Column("retired", sa.Boolean, nullable=False, server_default=sa.false()))
    some = sa.text("expires IS NOT NULL")
    op.create_index("memories_expires", "memories", ["expires"], sqlite_where=some, postgresql_where=some)
    op.create_index("events_namespace", "events", ["namespace", "number"])
    op.create_table(
        "idempotency",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("namespace", "key", "request")),
        sa.Column("kept", sa.JSON, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "key", name="idempotency_key"),
    )
    op.create_index("idempotency_at", "idempotency", ["at"])
