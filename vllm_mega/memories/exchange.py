"""The format in which banks are exported: one JSON object a line, and PEFT folders.

::

    EXPORT/
      settings.json           base model and embedder
      memories.jsonl          versions, those of a memory together, the oldest first
      adapters/ab/abcd.../    PEFT adapters by their digest
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.catalog.records import MemoryName, Source
from vllm_mega.bank.layout import NewMemory

SETTINGS = "settings.json"
MEMORIES = "memories.jsonl"
ADAPTERS = "adapters"


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A version of a memory."""

    memory: NewMemory
    """With its id; links and `expires_at` only in the newest version."""
    number: int
    who: str
    at: float
    """When, in seconds since 1970; it and `who` are for the reader: an import is by whoever imports."""
    newest: bool = False
    adapter: str | None = None
    """Digest of its adapter; None: it has none."""
    recipe: str = ""
    training: dict[str, Any] = {}
    key: bytes | None = None
    """float32 [D], little endian, in base64."""
    source: Source | None = None
    wanted: bool = False
    """Of the newest: a trainer shall make an adapter."""
    pinned: bool = False
    """Of the newest: the memory is."""
    retired: bool = False
    """As `pinned`."""

    @property
    def name(self) -> MemoryName:
        return MemoryName(self.memory.namespace, self.memory.id)


def adapter_path(folder: Path, adapter: str) -> Path:
    """Where in the export the adapter of this digest is."""
    return folder / ADAPTERS / adapter[:2] / adapter
