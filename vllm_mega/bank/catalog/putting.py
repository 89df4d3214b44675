"""How a draft comes to be what a memory says, inside a transaction of somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_mega.bank.catalog.drafts import changes, check_expiration, name_of
from vllm_mega.bank.catalog.events import Change
from vllm_mega.bank.catalog.keeping import keep
from vllm_mega.bank.catalog.reading import find_version
from vllm_mega.bank.catalog.records import Draft
from vllm_mega.bank.catalog.rows import Held, hold, require
from vllm_mega.bank.catalog.writing import first_version, next_version, queue, set_links
from vllm_mega.errors import BankError

Write = Callable[[Change, Draft], object]


def write_all(changing: Change, drafts: Sequence[Draft], write: Write) -> None:
    """Write drafts in an order in which two transactions never block each other.

    A microsecond lies between them, in the order in which they were given: the later is the newer.
    """
    begun = changing.at
    for n, draft in sorted(enumerate(drafts), key=lambda each: name_of(each[1])):
        check_expiration(name_of(draft), draft.memory.expires, begun)
        changing.at = begun + n * 1e-6
        write(changing, draft)


def put(changing: Change, draft: Draft) -> None:
    held = hold(changing.connection, name_of(draft))
    if held is None:
        first_version(changing, draft)
    else:
        change_held(changing, held, draft)


def add(changing: Change, draft: Draft) -> None:
    name = name_of(draft)
    if hold(changing.connection, name) is not None:
        raise BankError(f"namespace {name.namespace!r} has a memory {name.id!r} already: update it")
    first_version(changing, draft)


def update(changing: Change, draft: Draft) -> None:
    change_held(changing, require(changing.connection, name_of(draft)), draft)


def change_held(changing: Change, held: Held, draft: Draft) -> None:
    """A new version, if the draft says anything new; a job, if it only asks for training."""
    if draft.memory.expires is not None:
        held = keep(changing, held, expires=draft.memory.expires)
    newest = find_version(changing.connection, held.name, held.newest)
    if changes(draft, newest):
        next_version(changing, held, draft)
        return
    if draft.memory.links:
        set_links(changing, held, draft.memory.links)
    if draft.train and held.state == "pending" and queue(changing, held.row, draft.text_digest).new:
        changing.note("queued", held.row, held.name, held.newest)
