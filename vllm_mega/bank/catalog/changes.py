"""Adding and changing memories: each function is one transaction, all of it or nothing.

A key, a digest and an adapter are made before; here nothing is embedded or trained. `who` is for the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from vllm_mega.bank.catalog import putting
from vllm_mega.bank.catalog.catalog import Catalog, read_settings, write_settings
from vllm_mega.bank.catalog.drafts import changes, check_drafts, draft_of, name_of
from vllm_mega.bank.catalog.events import Change, change, require_stamp
from vllm_mega.bank.catalog.expiring import NOBODY, clear, delete_expired
from vllm_mega.bank.catalog.keeping import keep
from vllm_mega.bank.catalog.reading import check_room, find_links, find_memory, find_version
from vllm_mega.bank.catalog.records import Draft, Memory, MemoryName, Version
from vllm_mega.bank.catalog.rows import Held, require
from vllm_mega.bank.catalog.writing import next_version, set_links
from vllm_mega.bank.layout import check_links
from vllm_mega.errors import DraftError


def put(catalog: Catalog, drafts: Sequence[Draft], who: str, *, most: int | None = None) -> list[Memory]:
    """Add the memories that are not there, update those that are; what says nothing new changes nothing.

    Args:
        catalog: of which bank.
        drafts: each memory once.
        who: changes them.
        most: memories that each of their namespaces may have then; None: any number.

    Returns:
        The memories as they are now, in the order of `drafts`.

    Raises:
        LimitError: more than `most`; then nothing has changed.
        BankError: a draft that cannot be kept, or the database refuses; then nothing has changed.
    """
    return _each(catalog, drafts, who, putting.put, most)


def add(catalog: Catalog, drafts: Sequence[Draft], who: str) -> list[Memory]:
    """As `put`, for memories that are not there.

    Raises:
        BankError: as `put`; or there is one already.
    """
    return _each(catalog, drafts, who, putting.add)


def update(catalog: Catalog, drafts: Sequence[Draft], who: str) -> list[Memory]:
    """As `put`, for memories that are there.

    Raises:
        BankError: as `put`.
        MemoryNotFoundError: there is none (any more).
    """
    return _each(catalog, drafts, who, putting.update)


def tag(
    catalog: Catalog, name: MemoryName, who: str, *, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> Memory:
    """Add and remove tags: a new version of the same text, which is not trained again.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    gone, new = set(remove), tuple(add)

    def act(changing: Change) -> Memory:
        held = require(changing.connection, name)
        newest = find_version(changing.connection, name, held.newest)
        kept = tuple(dict.fromkeys(t for t in (*newest.tags, *new) if t not in gone))
        draft = draft_of(newest, train=False, tags=kept)
        check_drafts([draft], catalog.embedder.dim)
        return _next(changing, held, draft)

    return change(catalog, who, act)


class Edit(msgspec.Struct, frozen=True):
    """What becomes of a memory in one change."""

    draft: Callable[[Version], Draft] | None = None
    """What it says from now on, made of its newest version; may be called more than once. None: the same."""
    links: tuple[str, ...] | None = None
    """All that it links to from now on; None: its links stay."""
    pinned: bool | None = None
    """None: as it is."""
    retired: bool | None = None
    """None: as it is."""
    expires: float | UnsetType | None = UNSET
    """In seconds since 1970; None: never. UNSET: as it is."""


def edit(catalog: Catalog, name: MemoryName, wanted: Edit, who: str, *, stamp: int | None = None) -> Memory:
    """Change a memory; what says nothing new changes nothing.

    Args:
        catalog: of which bank.
        name: of the memory.
        wanted: what is new.
        who: changes it.
        stamp: that it had when it was read (see `find_stamp`); None: whatever it has.

    Raises:
        MemoryNotFoundError: no such memory.
        MemoryChangedError: it has another stamp by now.
        BankError: what cannot be kept.
    """

    def act(changing: Change) -> Memory:
        held = require_stamp(changing.connection, name, stamp)
        if wanted.draft is not None:
            draft = wanted.draft(find_version(changing.connection, name, held.newest))
            check_drafts([draft], catalog.embedder.dim)
            putting.change_held(changing, held, draft)
        if wanted.links is not None:
            _check(name, wanted.links)
            set_links(changing, require(changing.connection, name), wanted.links)
        held = require(changing.connection, name)
        keep(changing, held, pinned=wanted.pinned, retired=wanted.retired, expires=wanted.expires)
        return find_memory(changing.connection, name)

    return change(catalog, who, act)


def restore(
    catalog: Catalog, name: MemoryName, number: int, who: str, *, train: bool = True, stamp: int | None = None
) -> Memory:
    """Make an earlier version the newest again, text, tags and source; with its adapter, if it had one.

    Raises:
        MemoryNotFoundError: no such memory, or no such version of it.
        MemoryChangedError: it has another stamp by now (see `edit`).
    """

    def act(changing: Change) -> Memory:
        held = require_stamp(changing.connection, name, stamp)
        draft = draft_of(find_version(changing.connection, name, number), train=train)
        return _next(changing, held, draft)

    return change(catalog, who, act)


def link(catalog: Catalog, name: MemoryName, targets: Iterable[str], who: str) -> tuple[str, ...]:
    """Let the memory link to these ids too (of its namespace; they need not be there); its links then.

    Raises:
        MemoryNotFoundError: no such memory.
        BankError: a link to itself, or to what can be no id.
    """
    wanted = tuple(targets)
    return _relink(catalog, name, who, lambda links: tuple(dict.fromkeys((*links, *wanted))))


def unlink(catalog: Catalog, name: MemoryName, targets: Iterable[str], who: str) -> tuple[str, ...]:
    """Let the memory link to these ids no more; its links then.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    gone = set(targets)
    return _relink(catalog, name, who, lambda links: tuple(link for link in links if link not in gone))


def pin(catalog: Catalog, name: MemoryName, who: str, *, pinned: bool = True) -> Memory:
    """Pin the memory, or let it go again; nothing is trained.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    return edit(catalog, name, Edit(pinned=pinned), who)


def retire(catalog: Catalog, name: MemoryName, who: str, *, retired: bool = True) -> Memory:
    """Retire the memory: it is kept, and neither answers nor is trained; or let it come back.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    return edit(catalog, name, Edit(retired=retired), who)


def set_chat_template(catalog: Catalog, template: str, who: str) -> None:
    """Set in which template memories are trained and asked; an event, if it changes.

    Raises:
        BankError: the database refuses.
    """

    def act(changing: Change) -> None:
        before = read_settings(changing.connection)
        after = msgspec.structs.replace(before.base, chat_template=template)
        if after != before.base:
            write_settings(changing.connection, msgspec.structs.replace(before, base=after))
            changing.note("settings", 0, MemoryName("", ""), 0)

    change(catalog, who, act)


def _each(
    catalog: Catalog, drafts: Sequence[Draft], who: str, write: putting.Write, most: int | None = None
) -> list[Memory]:
    """`write` all drafts in one transaction; what has expired makes room, and gives its id to others."""
    check_drafts(drafts, catalog.embedder.dim)
    gone = NOBODY

    def act(changing: Change) -> list[Memory]:
        nonlocal gone
        gone = delete_expired(changing)
        putting.write_all(changing, drafts, write)
        if most is not None:
            check_room(changing.connection, {draft.memory.namespace for draft in drafts}, most)
        return [find_memory(changing.connection, name_of(draft)) for draft in drafts]

    stored = change(catalog, who, act)
    clear(catalog, gone)
    return stored


def _next(changing: Change, held: Held, draft: Draft) -> Memory:
    """A new version that says what `draft` says, unless the newest does."""
    newest = find_version(changing.connection, held.name, held.newest)
    if changes(draft, newest):
        next_version(changing, held, draft)
    return find_memory(changing.connection, held.name)


def _relink(
    catalog: Catalog, name: MemoryName, who: str, new: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> tuple[str, ...]:
    def act(changing: Change) -> tuple[str, ...]:
        held = require(changing.connection, name)
        after = new(find_links(changing.connection, held.row))
        _check(name, after)
        set_links(changing, held, after)
        return after

    return change(catalog, who, act)


def _check(name: MemoryName, targets: tuple[str, ...]) -> None:
    try:
        check_links(targets, name.id)
    except ValueError as error:
        raise DraftError(f"memory {name.namespace}/{name.id}: {error}") from error
