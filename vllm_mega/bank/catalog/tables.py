"""The catalog's tables, as SQLAlchemy Core sees them; `migrations` makes them, a test compares both."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()
_BIG = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts up only what is called INTEGER; it has 64 bits there."""
_EXPIRES = text("expires IS NOT NULL")


def _memory() -> Column[int]:
    return Column("memory", _BIG, ForeignKey("memories.row", ondelete="CASCADE"), nullable=False)


memories = Table(
    "memories",
    metadata,
    Column("row", _BIG, primary_key=True, autoincrement=True),
    Column("namespace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("newest", Integer, nullable=False),
    Column("current", Integer, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("added", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("expires", Double),
    Column("retired", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("namespace", "id", name="memories_name"),
    Index("memories_state", "namespace", "state"),
    Index("memories_expires", "expires", sqlite_where=_EXPIRES, postgresql_where=_EXPIRES),
    sqlite_autoincrement=True,  # a row's number never comes again, or cursors would show strangers
)

versions = Table(
    "versions",
    metadata,
    _memory(),
    Column("number", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("paraphrases", JSON, nullable=False),
    Column("qa", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("source_file", Text),
    Column("source_digest", Text),
    Column("source_start", BigInteger),
    Column("source_end", BigInteger),
    Column("text_digest", Text, nullable=False),
    Column("key", LargeBinary),
    Column("adapter", Text),
    Column("adapter_bytes", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("training", JSON, nullable=False),
    Column("who", Text, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("memory", "number", name="versions_number"),
    Index("versions_adapter", "adapter"),
    Index("versions_source", "source_file"),
)

links = Table(
    "links",
    metadata,
    _memory(),
    Column("target", Text, nullable=False),
    Column("position", Integer, nullable=False),
    PrimaryKeyConstraint("memory", "target", name="links_target"),
)

tags = Table(
    "tags",
    metadata,
    _memory(),
    Column("tag", Text, nullable=False),
    PrimaryKeyConstraint("tag", "memory", name="tags_tag"),
    Index("tags_memory", "memory"),
)
"""Of the newest versions, to find memories by."""

jobs = Table(
    "jobs",
    metadata,
    _memory(),
    Column("text_digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("token", Text),
    Column("owner", Text, nullable=False),
    Column("expires", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started", Double, nullable=False, server_default="0"),
    Column("steps", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("memory", name="jobs_memory"),
    Index("jobs_state", "state", "expires"),
)
"""At most one for a memory: to make the adapter of its newest version. `state`: waiting, leased or failed."""

events = Table(
    "events",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=False),
    Column("memory", _BIG, nullable=False),  # no foreign key: events outlive their memory
    Column("kind", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("who", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("events_name", "namespace", "id", "number"),
    Index("events_namespace", "namespace", "number"),
)

counter = Table(
    "counter",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("last", _BIG, nullable=False),
)
"""One row: the number of the last event."""

claims = Table(
    "claims",
    metadata,
    Column("token", Text, primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("expires", Double, nullable=False),
    Index("claims_adapter", "adapter"),
)
"""Adapters that are being placed, and that no version names yet."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("kept", JSON, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("namespace", "key", name="idempotency_key"),
    Index("idempotency_at", "at"),
)
"""Requests that shall be done once (`once`): digests of key and request, and what the answer is made of."""

uses = Table(
    "uses",
    metadata,
    _memory(),
    Column("strength", Double, nullable=False),
    Column("last", Double, nullable=False),
    PrimaryKeyConstraint("memory", name="uses_memory"),
)
"""Of memories that were ever used; see `catalog.uses`."""

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSON, nullable=False),
)
