"""What the catalog takes and gives. Frozen structs, no SQL.

Times are seconds since 1970, UTC, by the clock of the writer (of the server, for leases in PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from vllm_mega.bank.layout import QA, BaseModelInfo, EmbedderInfo, NewMemory

State = Literal["pending", "training", "ready", "failed"]
"""Of a memory's newest version: stored; leased by a trainer; has an adapter; was given up."""

JobState = Literal["waiting", "leased", "failed"]
"""Of the wish to train a memory: nobody has it; a trainer does; was given up."""

EventKind = Literal[
    "added", "updated", "forgotten", "expired", "linked", "pinned", "unpinned", "retired", "unretired",
    "dated",
    "queued", "leased", "returned", "ready", "failed", "settings",
]  # fmt: skip


CLOCK = "clock"
"""Who forgets what has expired."""


class MemoryName(NamedTuple):
    """What identifies a memory."""

    namespace: str
    id: str


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a text came from."""

    file: str
    digest: str = ""
    """SHA-256 of the file; empty: not known."""
    start: int | None = None
    """First character of the text in the file; None: all of it."""
    end: int | None = None
    """One past its last character."""


class Trained(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter that `store.place` has placed, and how it came to be."""

    adapter: str
    """`bank.adapter.adapter_digest` of it."""
    bytes: int
    """Of both its files."""
    rank: int
    claim: str
    """Keeps it from being swept until a version names it (see `store.place`)."""
    recipe: str = ""
    """Digest of the recipe; empty: it was trained elsewhere."""
    training: dict[str, Any] = {}
    """Settings, seed, steps, loss: for the reader, never for logic."""


class Draft(msgspec.Struct, frozen=True):
    """A memory on its way into the catalog."""

    memory: NewMemory
    """With its id. Links: empty leaves those that the memory has; so does no `expires_at`."""
    text_digest: str
    """Of all that trains: versions with the same digest share their adapter."""
    key: bytes | None = None
    """float32 [D], of unit length; None: the gate does not find it yet."""
    source: Source | None = None
    trained: Trained | None = None
    """It has an adapter already; None: it has none."""
    train: bool = True
    """Whether a trainer shall make an adapter, where there is none."""


class Memory(msgspec.Struct, frozen=True):
    """A memory as lists show it; title, tags and source are those of its newest version."""

    namespace: str
    id: str
    state: State
    newest: int
    """Number of its newest version: 1, 2, 3, ...; goes on where it was when a forgotten memory comes back."""
    current: int
    """Number of the version that answers: the newest with an adapter, without any the newest."""
    pinned: bool
    title: str
    tags: tuple[str, ...]
    source: Source | None
    added: float
    changed: float
    reason: str
    """Why its last training failed; empty: it did not."""
    adapter: str | None
    """Digest of the adapter that answers; None: the memory answers as text."""
    adapter_bytes: int
    rank: int
    recipe: str
    """That made the adapter; empty: it was made elsewhere, or there is none."""
    expires: float | None = None
    """From then on there is no such memory; None: it stays."""
    retired: bool = False
    """It is kept, and neither answers nor is trained."""

    @property
    def name(self) -> MemoryName:
        return MemoryName(self.namespace, self.id)


class Version(msgspec.Struct, frozen=True):
    """One version of a memory, with its text; never changes, but that its adapter comes."""

    namespace: str
    id: str
    number: int
    text: str
    title: str
    paraphrases: tuple[str, ...]
    qa: tuple[QA, ...]
    tags: tuple[str, ...]
    source: Source | None
    text_digest: str
    key: bytes | None
    adapter: str | None
    adapter_bytes: int
    rank: int
    recipe: str
    training: Mapping[str, Any]
    who: str
    at: float


class Event(msgspec.Struct, frozen=True):
    """One change. Events have no content, and stay when the memory is forgotten."""

    number: int
    """1, 2, 3, ... in the order of the commits; readers never see a gap."""
    kind: EventKind
    namespace: str
    id: str
    """Both empty for "settings"."""
    version: int
    """The memory's newest at that time."""
    who: str
    at: float


class Job(msgspec.Struct, frozen=True):
    """A lease: a version that this trainer, and no other, trains now."""

    namespace: str
    id: str
    version: int
    text_digest: str
    token: str
    """Of this lease. Who has it may finish; after the lease has gone to another it is worth nothing."""
    owner: str
    attempt: int
    """1 for the first."""
    expires: float

    @property
    def name(self) -> MemoryName:
        return MemoryName(self.namespace, self.id)


class JobStatus(msgspec.Struct, frozen=True):
    """A job as lists show it."""

    namespace: str
    id: str
    version: int
    """The memory's newest, that wants an adapter."""
    state: JobState
    owner: str
    """Who trains it; empty: nobody does."""
    attempts: int
    """Leases that it has had."""
    reason: str
    """Why the last one ended without a result; empty: none has."""
    expires: float
    """When the lease ends, unless it is renewed; 0: nobody has it."""
    started: float
    """When it was leased; 0: nobody has it."""
    steps: int
    """That its trainer has told of, of those that were made since; about 24 are needed, and more are no sign
    of trouble."""


class JobPage(msgspec.Struct, frozen=True):
    """A part of the list of jobs."""

    jobs: tuple[JobStatus, ...]
    cursor: str | None
    """As of `Page`."""


def text_name(namespace: str, memory_id: str, version: int) -> str:
    """Names the text of a version."""
    return f"{namespace}/{memory_id}/{version}"


class Row(msgspec.Struct, frozen=True, gc=False):
    """What a reader needs of a memory: the version that answers, with the newest's tags."""

    namespace: str
    id: str
    version: int
    state: State
    title: str
    tags: tuple[str, ...]
    links: tuple[str, ...]
    adapter: str | None
    """None: it has none, and answers as text."""
    age: float = 0.0
    """When its text came, as seconds: of two memories, the newer has the greater."""

    @property
    def name(self) -> MemoryName:
        return MemoryName(self.namespace, self.id)

    @property
    def text_name(self) -> str:
        """Names the text that answers, and no other that ever was: numbers of versions never come again."""
        return text_name(self.namespace, self.id, self.version)


class BankSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the whole bank."""

    base: BaseModelInfo
    embedder: EmbedderInfo


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which memories a list shows; what is None filters nothing."""

    namespace: str | None = None
    tag: str | None = None
    state: State | None = None
    source: str | None = None
    """`Source.file`."""
    pinned: bool | None = None
    since: float | None = None
    """Changed at this time or later."""
    until: float | None = None
    """Changed before this time."""
    retired: bool | None = None
    expired: bool = False
    """Those that have expired and are not yet forgotten for good, in place of all others."""


EVERYTHING = Filter()


class Page(msgspec.Struct, frozen=True):
    """A part of a list."""

    memories: tuple[Memory, ...]
    cursor: str | None
    """Give it to get the next page; None: this was the last."""
