"""How often and how lately memories were used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    op.create_table(
        "uses",
        sa.Column(
            "memory",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey("memories.row", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("strength", sa.Double, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("memory", name="uses_memory"),
    )
