"""What clients are told: the answers of all routes. Times are seconds since 1970, but for `expires_at`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from vllm_mega.bank.catalog.records import Event, EventKind, JobStatus, Source, State
from vllm_mega.bank.catalog.records import JobState as KeptJobState
from vllm_mega.bank.catalog.records import Memory as Kept
from vllm_mega.bank.catalog.records import Version as KeptVersion
from vllm_mega.bank.layout import QA, moment_of
from vllm_mega.gate.uses import Standing
from vllm_mega.memories.reading import Entry


class Remembered(msgspec.Struct, frozen=True):
    """A memory that was stored."""

    id: str
    namespace: str
    state: State
    """pending: it waits for a trainer, and answers as text meanwhile."""
    version: int
    """Number of its newest version."""
    object: Literal["memory.stored"] = "memory.stored"


class RememberedList(msgspec.Struct, frozen=True):
    """Memories that were stored, in the order in which they were given."""

    data: tuple[Remembered, ...]
    object: Literal["list"] = "list"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A memory without its text; title, tags and source are those of its newest version."""

    id: str
    namespace: str
    state: State
    version: int
    """Number of its newest version."""
    answers: int
    """Number of the version that answers: the newest with an adapter, without any the newest."""
    title: str
    tags: tuple[str, ...]
    source: Source | None
    pinned: bool
    adapter: str | None
    """Digest of the adapter that answers; null: it answers as text."""
    reason: str
    """Why its last training failed; empty: it did not."""
    retired: bool
    """It is kept, and neither answers nor is trained."""
    expires_at: datetime | None
    """From then on there is no such memory; null: it stays."""
    created_at: float
    updated_at: float
    object: Literal["memory"] = "memory"


class Use(msgspec.Struct, frozen=True):
    """What use and age have made of a memory."""

    salience: float
    """0 to 1; 1: it is pinned."""
    strength: float
    """Uses, the older the less."""
    last_used_at: float | None
    """When it was used last, but for uses within an hour of one another; null: never."""


class FullMemory(Memory, frozen=True, kw_only=True):
    """A memory with the text of one version."""

    shown: int
    """Number of the version that text, paraphrases and qa are of."""
    text: str
    paraphrases: tuple[str, ...]
    qa: tuple[QA, ...]
    links: tuple[str, ...]
    use: Use | msgspec.UnsetType = msgspec.UNSET
    """Absent: on this server use does not count."""


class Page(msgspec.Struct, frozen=True):
    """A part of a list, the latest added first."""

    data: tuple[Memory, ...]
    next_cursor: str | None
    """Give it as `cursor` to get the next page; null: this was the last."""
    object: Literal["list"] = "list"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a memory."""

    version: int
    text: str
    title: str
    tags: tuple[str, ...]
    paraphrases: tuple[str, ...]
    qa: tuple[QA, ...]
    source: Source | None
    adapter: str | None
    who: str
    created_at: float


class Happened(msgspec.Struct, frozen=True):
    """A change. It has nothing of what the memory says, and stays when it is forgotten."""

    event: str
    """A token; give it as `after` to get what came later."""
    kind: EventKind
    id: str
    version: int
    """The memory's newest at that time."""
    who: str
    """Name of the key, "trainer", or "clock" where the memory has expired."""
    at: float


class History(msgspec.Struct, frozen=True):
    """All that is known of a memory's past."""

    id: str
    data: tuple[Version, ...]
    """The newest first; none, when it was forgotten."""
    events: tuple[Happened, ...]
    """The first first."""
    object: Literal["memory.history"] = "memory.history"


class Events(msgspec.Struct, frozen=True):
    """Changes, the first first."""

    data: tuple[Happened, ...]
    next: str
    """Give it as `after` to get what comes later."""
    object: Literal["list"] = "list"


class Deleted(msgspec.Struct, frozen=True):
    """A memory that was forgotten."""

    id: str
    event: str
    erased: bool
    """Texts and keys are overwritten on the server's disk; false: later."""
    deleted: Literal[True] = True
    object: Literal["memory.deleted"] = "memory.deleted"


class SourceDeleted(msgspec.Struct, frozen=True):
    """All memories that came from a source were forgotten."""

    source: str
    data: tuple[str, ...]
    """Their ids."""
    erased: bool
    """As of one memory."""
    deleted: Literal[True] = True
    object: Literal["source.deleted"] = "source.deleted"


JobState = Literal["waiting", "training", "failed", "done", "none"]
_JOB_STATES: dict[KeptJobState, JobState] = {"waiting": "waiting", "leased": "training", "failed": "failed"}


class Job(msgspec.Struct, frozen=True):
    """What becomes of the wish to train a memory; its id is that of the memory."""

    id: str
    state: JobState
    """none: the memory has no adapter, and none is wanted."""
    version: int
    """The memory's newest, that wants an adapter."""
    attempts: int
    """Trainers that have had it."""
    reason: str
    """Why the last one gave no result; empty: none has failed."""
    steps: int = 0
    """That the trainer who has it now has told of; about 24 are needed."""
    started_at: float | None = None
    """Since when it is trained; null: nobody trains it now."""
    object: Literal["memory.job"] = "memory.job"


class JobPage(msgspec.Struct, frozen=True):
    """A part of the list of jobs, in the order in which trainers take them."""

    data: tuple[Job, ...]
    next_cursor: str | None
    """As of memories."""
    object: Literal["list"] = "list"


class Step(msgspec.Struct, frozen=True):
    """What became of one part of a document."""

    id: str
    change: Literal["add", "update", "link", "keep", "forget"]
    title: str
    tokens: int


class DocumentStored(msgspec.Struct, frozen=True):
    """A document, and the memories that it has become, in its order."""

    source: str
    namespace: str
    data: tuple[Step, ...]
    dry_run: bool
    """Nothing was done."""
    object: Literal["document"] = "document"


def remembered(memory: Kept) -> Remembered:
    return Remembered(memory.id, memory.namespace, memory.state, memory.newest)


def listed(memory: Kept) -> Memory:
    return Memory(**_fields(memory))


def full(entry: Entry, standing: Standing | None) -> FullMemory:
    """The memory, with the version that `entry` has, and what use has made of it; None: it does not count."""
    version = entry.version
    return FullMemory(
        **_fields(entry.memory), text=version.text, paraphrases=version.paraphrases, qa=version.qa,
        shown=version.number, links=entry.links,
        use=msgspec.UNSET if standing is None else Use(*standing),
    )  # fmt: skip


def _fields(memory: Kept) -> dict[str, Any]:
    return {
        "id": memory.id, "namespace": memory.namespace, "state": memory.state, "version": memory.newest,
        "answers": memory.current, "title": memory.title, "tags": memory.tags, "source": memory.source,
        "pinned": memory.pinned, "adapter": memory.adapter, "reason": memory.reason,
        "retired": memory.retired, "expires_at": moment_of(memory.expires),
        "created_at": memory.added, "updated_at": memory.changed,
    }  # fmt: skip


def job_told(job: JobStatus) -> Job:
    """A job as clients see it."""
    state, started = _JOB_STATES[job.state], job.started or None
    return Job(job.id, state, job.version, job.attempts, job.reason, job.steps, started)


def version_told(version: KeptVersion) -> Version:
    return Version(
        version=version.number, text=version.text, title=version.title, tags=version.tags,
        paraphrases=version.paraphrases, qa=version.qa, source=version.source, adapter=version.adapter,
        who=version.who, created_at=version.at,
    )  # fmt: skip


def happened(event: Event, token: str) -> Happened:
    """An event under its token; which host and process a trainer is, is nobody's business."""
    who = "trainer" if event.kind in _BY_TRAINERS else event.who
    return Happened(token, event.kind, event.id, event.version, who, event.at)


_BY_TRAINERS: frozenset[EventKind] = frozenset({"leased", "returned", "ready", "failed"})
