"""All that the routes about memories need of a server: one struct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from vllm_mega.access.audit import Audit
from vllm_mega.access.limits import Limits, Rates
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.once import Once
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.config import MegaSettings
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Gate
from vllm_mega.gate.uses import Standing
from vllm_mega.http.memories.pool import Pool
from vllm_mega.http.memories.seals import Seals
from vllm_mega.memories.documents.counting import token_count
from vllm_mega.memories.documents.sections import Count
from vllm_mega.memories.receipts.signing import Server


@dataclass
class Service:
    """A bank that is served."""

    gate: Gate
    embedder: Embedder
    """Of the gate; makes the keys of new memories."""
    settings: MegaSettings
    model: Path
    """Folder of the base model, whose tokens documents are divided by."""
    trust_remote_code: bool = False
    audit: Audit | None = None
    """Gets a line for every change."""
    pool: Pool = field(default_factory=Pool)
    limits_of: Callable[[str], Limits] = lambda _: Limits()
    """By namespace."""
    let_go: Callable[[frozenset[str]], Server] | None = None
    """Has the engines let go of parts of memories; None: there are none, or they cannot."""
    streams: int = 0
    """Streams of events that are open."""
    _count: Count | None = None

    def __post_init__(self) -> None:
        self.seals = Seals(self.catalog.secret)
        self._rates, self._lock = Rates(), Lock()

    @property
    def catalog(self) -> Catalog:
        """Of the bank."""
        return self.gate.library.catalog

    def take(self, namespace: str, changes: int) -> None:
        """Count so many changes of memories of a namespace; this process counts for itself.

        Raises:
            LimitError: they come too fast.
        """
        with self._lock:
            self._rates.take(namespace, changes, self.limits_of(namespace).changes_per_minute)

    def standing(self, name: MemoryName) -> Standing | None:
        """What use has made of a memory; None: on this server use does not count."""
        uses = self.gate.uses
        return None if uses is None else uses.standing(name)

    def count(self) -> Count:
        """What counts tokens; loaded when the first document comes.

        Raises:
            ModelError: the model has no tokenizer.
        """
        if self._count is None:
            self._count = token_count(self.model, trust_remote_code=self.trust_remote_code)
        return self._count


@dataclass(frozen=True)
class Asked:
    """A request, once it is known who asks and what is meant."""

    who: str
    """Name of the principal, for histories."""
    namespace: str
    """Whose memories; the principal may use it."""
    id: str
    """Of a memory or a source, from the path; empty: the path has none."""
    query: Any
    """The struct that the operation names."""
    body: Any
    """The struct that the operation names; None: it names none."""
    stamp: int | None = None
    """That the memory must still have (If-Match); None: whatever it has."""
    once: Once | None = None
    """By which it is known again (Idempotency-Key); None: it may be done as often as it comes."""


@dataclass(frozen=True)
class Told:
    """An answer."""

    value: Any
    """A struct."""
    ids: tuple[str, ...] = ()
    """Of the memories that were changed, for the audit log."""
    stamp: int | None = None
    """Of the memory that is told (ETag)."""
