"""The on-disk format of a bank: names, structs and paths. No reading, no writing.

::

    BANK/
      manifest.json                         the bank: whoever replaces it commits a generation
      keys-<generation>.safetensors         "keys": float32 [N, D], row i belongs to memories[i]
      memories/<namespace>/<id>/<version>/  one memory, immutable once the manifest names it
        memory.json                         what trains it: text, title, paraphrases, questions
        adapter_config.json                 PEFT
        adapter_model.safetensors
      lock                                  held by the one writer
      staging/                              what an unfinished writer left; never read
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.config import DEFAULT_NAMESPACE, check_name, check_tags, repeated

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
LOCK = "lock"
STAGING = "staging"
MEMORIES = "memories"
MEMORY_FILE = "memory.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MEMORY_FILES = (MEMORY_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS)

MAX_MANIFEST = 1 << 30
"""Bytes of a manifest; with a million memories it is smaller."""
MAX_TEXT = 64 << 20
"""Bytes of a `memory.json`."""
MAX_DIM = 1 << 16
"""Numbers of a key."""
MAX_KEYS_HEADER = 1 << 16
"""Bytes of a keys file beside the keys."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BaseModelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The model that the adapters belong to."""

    name: str
    """Model id or path, as it was given."""
    fingerprint: str
    """`vllm_mega.models.fingerprint` of it."""
    chat_template: str = ""
    """Jinja, that the memories were trained with and are asked in; empty: the model's own."""


class EmbedderInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedder that made the keys."""

    name: str
    fingerprint: str
    dim: int


class QA(msgspec.Struct, frozen=True):
    """A question about a memory, for training or evaluation."""

    question: str
    answer: str


class NewMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a memory is, before it has an adapter; one line of the trainer's input."""

    text: str
    id: str = ""
    """Empty: derived from the text, so that the same line is the same memory."""
    title: str = ""
    namespace: str = DEFAULT_NAMESPACE
    tags: tuple[str, ...] = ()
    """For whoever asks: a request may be for memories with some tags alone (see `config.check_tags`)."""
    paraphrases: tuple[str, ...] = ()
    qa: tuple[QA, ...] = ()
    links: tuple[str, ...] = ()
    """Ids of memories of the same namespace that come to mind with this one; they need not be there (yet).
    Empty: the bank's links stay. What is not in `Content`, links and tags, is kept in the manifest and never
    trained on."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("text must not be empty")
        check_name(self.namespace, "namespace")
        if self.id:
            check_name(self.id, "id")
        check_links(self.links, self.id)
        check_tags(self.tags)
        texts = (self.text, self.title, *self.tags, *self.paraphrases)
        _require_whole([*texts, *(part for qa in self.qa for part in (qa.question, qa.answer))])


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What trains a memory: all that its examples are made of."""

    text: str
    title: str = ""
    paraphrases: tuple[str, ...] = ()
    qa: tuple[QA, ...] = ()


class MemoryEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A memory as the manifest lists it; identified by (namespace, id).

    What is empty is left out of the manifest, so that a bank without links reads as it always has.
    """

    id: str
    namespace: str
    version: int
    """The generation that wrote it: grows with every update, and a folder's path is never used twice."""
    title: str
    tags: tuple[str, ...]
    text_digest: str
    """SHA-256 of its `Content` (see `bank.identity`): tells whether a new line trains it again."""
    adapter: str
    """SHA-256 over adapter_config.json and adapter_model.safetensors (see `bank.adapter`)."""
    adapter_bytes: int
    rank: int
    created_at: str
    """UTC, ISO 8601."""
    training: dict[str, Any] = {}
    """How it was trained (rank, seed, steps, loss, recalled): for the reader, never for logic."""
    links: tuple[str, ...] = ()
    """Ids of memories of the same namespace that the gate may follow; others are passed over."""
    recipe: str = ""
    """Digest of the recipe that it was trained by; empty: its adapter comes from elsewhere."""

    def __post_init__(self) -> None:
        # The names become paths: a manifest must not lead out of its bank.
        check_name(self.namespace, "namespace")
        check_name(self.id, "id")
        check_links(self.links, self.id)
        if self.version < 1:
            raise ValueError(f"version must be at least 1, got {self.version}")
        check_tags(self.tags)
        for digest in (self.text_digest, self.adapter, *filter(None, [self.recipe])):
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"a digest must be 64 hex digits, got {digest!r}")

    @property
    def key(self) -> tuple[str, str]:
        return (self.namespace, self.id)

    @property
    def folder(self) -> str:
        """Path of the memory, relative to the bank."""
        return memory_folder(self.namespace, self.id, self.version)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole bank at one generation."""

    format: int
    generation: int
    base: BaseModelInfo
    embedder: EmbedderInfo
    keys: str
    """SHA-256 of the keys file: manifest and keys belong together."""
    memories: tuple[MemoryEntry, ...] = ()

    def __post_init__(self) -> None:
        if len({entry.key for entry in self.memories}) != len(self.memories):
            raise ValueError("a memory is listed twice")

    @property
    def keys_file(self) -> str:
        return keys_file(self.generation)


def check_links(links: Sequence[str], memory_id: str) -> None:
    """Refuse links of the memory `memory_id` that name no memory, one twice, or itself.

    Raises:
        ValueError: as above; the message says which.
    """
    for link in links:
        check_name(link, "a link")
    if twice := repeated(links):
        raise ValueError(f"links names {', '.join(twice)} more than once")
    if memory_id in links:
        raise ValueError(f"links of {memory_id!r} names the memory itself: leave it out")


def _require_whole(texts: Sequence[str]) -> None:
    """Refuse what no file can hold; it comes from arguments and other programs, never from JSON."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text has half a character (a lone surrogate)") from error


def keys_file(generation: int) -> str:
    return f"keys-{generation}.safetensors"


def memory_folder(namespace: str, memory_id: str, version: int) -> str:
    return str(Path(MEMORIES, namespace, memory_id, str(version)))
