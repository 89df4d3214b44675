"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _memories()
    _versions()
    _of_memories()
    _jobs()
    _events()
    _bank()


def _memory() -> sa.Column[int]:
    return sa.Column("memory", BIG, sa.ForeignKey("memories.row", ondelete="CASCADE"), nullable=False)


def _memories() -> None:
    op.create_table(
        "memories",
        sa.Column("row", BIG, primary_key=True, autoincrement=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("newest", sa.Integer, nullable=False),
        sa.Column("current", sa.Integer, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("added", sa.Double, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
        sa.UniqueConstraint("namespace", "id", name="memories_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("memories_state", "memories", ["namespace", "state"])


def _versions() -> None:
    op.create_table(
        "versions",
        _memory(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("paraphrases", "qa", "tags")),
        sa.Column("source_file", sa.Text),
        sa.Column("source_digest", sa.Text),
        sa.Column("source_start", sa.BigInteger),
        sa.Column("source_end", sa.BigInteger),
        sa.Column("text_digest", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("adapter", sa.Text),
        sa.Column("adapter_bytes", sa.BigInteger, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("training", sa.JSON, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("memory", "number", name="versions_number"),
    )
    op.create_index("versions_adapter", "versions", ["adapter"])
    op.create_index("versions_source", "versions", ["source_file"])


def _of_memories() -> None:
    op.create_table(
        "links",
        _memory(),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("memory", "target", name="links_target"),
    )
    op.create_table(
        "tags",
        _memory(),
        sa.Column("tag", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tag", "memory", name="tags_tag"),
    )
    op.create_index("tags_memory", "tags", ["memory"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        _memory(),
        sa.Column("text_digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("token", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("memory", name="jobs_memory"),
    )
    op.create_index("jobs_state", "jobs", ["state", "expires"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("number", BIG, primary_key=True, autoincrement=False),
        sa.Column("memory", BIG, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "namespace", "id")),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("events_name", "events", ["namespace", "id", "number"])
    counter = op.create_table(
        "counter",
        sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last", BIG, nullable=False),
    )
    op.bulk_insert(counter, [{"only": 1, "last": 0}])


def _bank() -> None:
    op.create_table(
        "claims",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_index("claims_adapter", "claims", ["adapter"])
    op.create_table(
        "settings",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
