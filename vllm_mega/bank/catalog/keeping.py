"""What holds of a memory beside what it says: whether it is pinned or retired, and when it expires."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from vllm_mega.bank.catalog.drafts import check_expiration
from vllm_mega.bank.catalog.events import Change
from vllm_mega.bank.catalog.records import EventKind
from vllm_mega.bank.catalog.rows import Held
from vllm_mega.bank.catalog.writing import save


def keep(
    change: Change,
    held: Held,
    *,
    pinned: bool | None = None,
    retired: bool | None = None,
    expires: float | UnsetType | None = UNSET,
) -> Held:
    """Change what is given, with an event for each that was otherwise; None and UNSET leave what there is.

    Raises:
        DraftError: it would have expired already.
    """
    if pinned is not None and pinned != held.pinned:
        held = _set(change, held, "pinned" if pinned else "unpinned", pinned=pinned)
    if retired is not None and retired != held.retired:
        held = _set(change, held, "retired" if retired else "unretired", retired=retired)
    if expires is not UNSET and expires != held.expires:
        check_expiration(held.name, expires, change.at)
        held = _set(change, held, "dated", expires=expires)
    return held


def _set(change: Change, held: Held, kind: EventKind, **new: Any) -> Held:
    held = held._replace(**new)
    save(change, held)
    change.note(kind, held.row, held.name, held.newest)
    return held
