"""Jobs tell since when somebody has them, and how far that one is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("started", sa.Double, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("steps", sa.Integer, nullable=False, server_default="0"))
