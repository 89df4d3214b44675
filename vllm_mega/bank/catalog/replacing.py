"""A document in place of what it was before: all of its memories in one change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog import putting
from vllm_mega.bank.catalog.amending import amend_all
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import check_drafts
from vllm_mega.bank.catalog.events import Change, change
from vllm_mega.bank.catalog.expiring import NOBODY, Gone, clear, delete, delete_expired
from vllm_mega.bank.catalog.reading import check_room, find_links
from vllm_mega.bank.catalog.records import Draft, MemoryName
from vllm_mega.bank.catalog.rows import among, hold
from vllm_mega.bank.catalog.writing import set_links
from vllm_mega.bank.layout import NewMemory

_AT_A_TIME = 400


class Replacement(msgspec.Struct, frozen=True):
    """All that becomes another in one change."""

    drafts: Sequence[Draft] = ()
    """Added or updated."""
    amended: Sequence[NewMemory] = ()
    """Whose tags and links alone are other ones (see `amending`)."""
    unlinked: Mapping[MemoryName, tuple[str, ...]] = {}
    """Links to be taken away."""
    gone: Sequence[MemoryName] = ()
    """Forgotten; somebody may have done so already."""


def replace(catalog: Catalog, wanted: Replacement, who: str, *, most: int | None = None) -> None:
    """Do all of it, or nothing.

    Args:
        catalog: of which bank.
        wanted: what is to be done.
        who: does it, for the history.
        most: memories that the namespaces of `drafts` may have then; None: any number.

    Raises:
        LimitError: more than `most`.
        BankError: a draft that cannot be kept, or disk or database refuse.
    """
    check_drafts(wanted.drafts, catalog.embedder.dim)
    expired = forgotten = NOBODY

    def act(changing: Change) -> None:
        nonlocal expired, forgotten
        expired = delete_expired(changing)
        putting.write_all(changing, wanted.drafts, putting.put)
        amend_all(changing, wanted.amended)
        for name in sorted(wanted.unlinked):
            _unlink(changing, name, set(wanted.unlinked[name]))
        forgotten = _forget(changing, sorted(wanted.gone))
        if most is not None:
            check_room(changing.connection, {draft.memory.namespace for draft in wanted.drafts}, most)

    change(catalog, who, act)
    clear(catalog, Gone(expired.names + forgotten.names, expired.adapters | forgotten.adapters))


def _unlink(changing: Change, name: MemoryName, targets: set[str]) -> None:
    held = hold(changing.connection, name)
    if held is not None:
        links = find_links(changing.connection, held.row)
        set_links(changing, held, tuple(link for link in links if link not in targets))


def _forget(changing: Change, names: Sequence[MemoryName]) -> Gone:
    parts = (among(names[n : n + _AT_A_TIME]) for n in range(0, len(names), _AT_A_TIME))
    return delete(changing, sa.or_(*parts), "forgotten") if names else NOBODY
