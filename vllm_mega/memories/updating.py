"""Update: a memory says something else from now on."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.reading import get_memory, get_version
from vllm_mega.bank.catalog.records import Draft, Memory, MemoryName, Version
from vllm_mega.bank.layout import QA, Moment, NewMemory, seconds_of
from vllm_mega.errors import ConfigError
from vllm_mega.gate.embedder import Embedder
from vllm_mega.memories.drafting import draft, keys_of


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a memory says from now on, and what becomes of it; None leaves it, but for `expires_at`."""

    text: str | None = None
    title: str | None = None
    paraphrases: tuple[str, ...] | None = None
    qa: tuple[QA, ...] | None = None
    tags: tuple[str, ...] | None = None
    links: tuple[str, ...] | None = None
    """All that it links to."""
    pinned: bool | None = None
    retired: bool | None = None
    """Whether it is kept without answering."""
    expires_at: Moment | UnsetType | None = UNSET
    """None: never; UNSET leaves what there is."""


_SAID = ("text", "title", "paraphrases", "qa", "tags")


def update(
    catalog: Catalog,
    name: MemoryName,
    wanted: Update,
    embedder: Embedder,
    who: str,
    *,
    train: bool = True,
    stamp: int | None = None,
) -> Memory:
    """Give a memory a new version; the one that answers goes on until the new one has its adapter.

    What is not named in `wanted` stays as it is when the change is made, whoever changes it meanwhile.

    Args:
        catalog: of which bank.
        name: (namespace, id).
        wanted: what is new; nothing new changes nothing, and what is no text trains nothing.
        embedder: that of the bank; makes the key.
        who: changes it, for the history.
        train: whether a trainer shall make an adapter, where there is none.
        stamp: that the memory had when it was read (`Entry.stamp`); None: whatever it has.

    Raises:
        MemoryNotFoundError: no such memory.
        MemoryChangedError: it has another stamp by now.
        ConfigError: what can be no memory, such as an empty text.
        BankError: the memory cannot be kept.
    """
    text = _text(catalog, name) if wanted.text is None else wanted.text
    (key,) = keys_of(catalog, [text], embedder)

    def drafted(newest: Version) -> Draft:
        memory = _replaced(draft_of(newest, train=train).memory, wanted)
        return draft(memory, key if memory.text == text else newest.key, newest.source, train=train)

    edit = changes.Edit(drafted, wanted.links, wanted.pinned, wanted.retired, _seconds(name, wanted))
    return changes.edit(catalog, name, edit, who, stamp=stamp)


def _seconds(name: MemoryName, wanted: Update) -> float | UnsetType | None:
    """When it expires from now on, in seconds since 1970."""
    if wanted.expires_at is UNSET:
        return UNSET
    try:
        return seconds_of(wanted.expires_at)
    except ValueError as error:
        raise ConfigError(f"memory {name.namespace}/{name.id}: {error}") from error


def _text(catalog: Catalog, name: MemoryName) -> str:
    """What the newest version says."""
    return get_version(catalog, *name, get_memory(catalog, *name).newest).text


def _replaced(memory: NewMemory, wanted: Update) -> NewMemory:
    given: dict[str, Any] = {field: value for field in _SAID if (value := getattr(wanted, field)) is not None}
    try:
        return msgspec.structs.replace(memory, **given)
    except ValueError as error:
        raise ConfigError(f"memory {memory.namespace}/{memory.id}: {error}") from error
