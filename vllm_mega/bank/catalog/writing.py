"""How a version comes into the catalog, inside a transaction of somebody else's.

One rule decides whether a new version is trained: versions of a memory with the same text digest have the
same adapter. So a changed tag, or an earlier version that comes back, is ready at once.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from vllm_mega.bank.catalog.claims import take
from vllm_mega.bank.catalog.events import Change, last_version
from vllm_mega.bank.catalog.reading import find_links
from vllm_mega.bank.catalog.records import Draft, EventKind, MemoryName, State, Trained
from vllm_mega.bank.catalog.rows import Held, Values, version_values
from vllm_mega.bank.catalog.tables import jobs, links, memories, tags, versions

_ADAPTER = (versions.c.adapter, versions.c.adapter_bytes, versions.c.rank, versions.c.recipe,
            versions.c.training)  # fmt: skip
_NO_ADAPTER: Values = {"adapter": None, "adapter_bytes": 0, "rank": 0, "recipe": "", "training": {}}
_STATES: dict[str, State] = {"waiting": "pending", "leased": "training", "failed": "failed"}


def first_version(change: Change, draft: Draft) -> Held:
    """Put a memory into the catalog that is not there."""
    name = MemoryName(draft.memory.namespace, draft.memory.id)
    number = last_version(change.connection, name) + 1
    expires = draft.memory.expires
    values = {"state": "pending", "newest": number, "current": number, "pinned": False, "expires": expires}
    row = change.connection.execute(
        sa.insert(memories)
        .values(namespace=name.namespace, id=name.id, added=change.at, changed=change.at, **values)
        .returning(memories.c.row)
    ).scalar_one()
    return _write(change, Held(row, name, "pending", number, number, False, expires), draft, "added")


def next_version(change: Change, held: Held, draft: Draft) -> Held:
    """Give a memory a new version; the one that answers goes on until this one is ready."""
    return _write(change, held._replace(newest=held.newest + 1), draft, "updated")


def _write(change: Change, held: Held, draft: Draft, kind: EventKind) -> Held:
    """Version `held.newest`, its tags and links, its job or adapter, and what the memory says of them."""
    adapter = _adapter(change, held.row, draft)
    place = {"memory": held.row, "number": held.newest, "who": change.who, "at": change.at}
    answers = _has_adapter(change, held) and adapter is None
    change.connection.execute(
        sa.insert(versions).values(**place, **version_values(draft), **(adapter or _NO_ADAPTER))
    )
    write_tags(change, held.row, draft.memory.tags)
    if draft.memory.links:
        write_links(change, held.row, draft.memory.links)
    state = _state(change, held.row, draft, has_adapter=adapter is not None)
    held = held._replace(state=state, current=held.current if answers else held.newest)
    save(change, held)
    change.note(kind, held.row, held.name, held.newest)
    return held


def _state(change: Change, row: int, draft: Draft, *, has_adapter: bool) -> State:
    """Of a memory whose newest version is `draft`'s, when what is to be trained has its job.

    Who has asked that a text with an adapter is trained again still wants it when a tag changes.
    """
    if has_adapter and (draft.trained is not None or _job(change, row, draft.text_digest) is None):
        drop_job(change, row)
        return "ready"
    return queue(change, row, draft.text_digest, draft.train).state


def save(change: Change, held: Held) -> None:
    """Write the memory's own row."""
    fields = held._asdict()
    values = {name: fields[name] for name in ("state", "newest", "current", "pinned", "expires", "retired")}
    mine = memories.c.row == held.row
    change.connection.execute(sa.update(memories).where(mine).values(changed=change.at, **values))


def set_state(change: Change, row: int, state: State) -> None:
    """What becomes of a job changes the memory's state, and nothing that a list by time would show."""
    change.connection.execute(sa.update(memories).where(memories.c.row == row).values(state=state))


def write_tags(change: Change, row: int, names: tuple[str, ...]) -> None:
    """Let the memory be found by these tags, and no others."""
    change.connection.execute(sa.delete(tags).where(tags.c.memory == row))
    if names:
        change.connection.execute(
            sa.insert(tags), [{"memory": row, "tag": tag} for tag in dict.fromkeys(names)]
        )


def write_links(change: Change, row: int, targets: tuple[str, ...]) -> None:
    """Let the memory link to these ids, in this order, and no others."""
    change.connection.execute(sa.delete(links).where(links.c.memory == row))
    if targets:
        rows = [{"memory": row, "target": target, "position": n} for n, target in enumerate(targets)]
        change.connection.execute(sa.insert(links), rows)


def set_links(change: Change, held: Held, targets: tuple[str, ...]) -> None:
    """As `write_links`, with an event, if these are others than the memory has."""
    if targets != find_links(change.connection, held.row):
        write_links(change, held.row, targets)
        save(change, held)
        change.note("linked", held.row, held.name, held.newest)


class Queued(NamedTuple):
    """What became of a wish to train."""

    state: State
    """Of the memory."""
    new: bool
    """There is a job that was not there."""


def queue(change: Change, row: int, text_digest: str, train: bool = True) -> Queued:
    """Leave one job for the newest version, if it shall be trained; a job for the same text stays."""
    job = _job(change, row, text_digest)
    if job is not None:
        return Queued(_STATES[job], False)
    drop_job(change, row)
    if train:
        blank = {"state": "waiting", "token": None, "owner": "", "expires": 0.0, "attempts": 0, "reason": ""}
        change.connection.execute(sa.insert(jobs).values(memory=row, text_digest=text_digest, **blank))
    return Queued("pending", train)


def _job(change: Change, row: int, text_digest: str) -> str | None:
    """The state of the memory's job for this text; None: there is none."""
    mine = (jobs.c.memory == row, jobs.c.text_digest == text_digest)
    return change.connection.execute(sa.select(jobs.c.state).where(*mine)).scalar()


def drop_job(change: Change, row: int) -> None:
    """End the memory's job, whoever has it."""
    change.connection.execute(sa.delete(jobs).where(jobs.c.memory == row))


def trained_values(trained: Trained) -> Values:
    """The columns of a version that its adapter decides."""
    return {
        "adapter": trained.adapter,
        "adapter_bytes": trained.bytes,
        "rank": trained.rank,
        "recipe": trained.recipe,
        "training": trained.training,
    }


def _adapter(change: Change, row: int, draft: Draft) -> Values | None:
    """The adapter that comes with the draft, else that of an earlier version of the same text."""
    if draft.trained is not None:
        take(change.connection, draft.trained)
        return trained_values(draft.trained)
    same = (versions.c.memory == row, versions.c.text_digest == draft.text_digest)
    query = sa.select(*_ADAPTER).where(*same, versions.c.adapter.is_not(None))
    found = change.connection.execute(query.order_by(versions.c.number.desc()).limit(1)).one_or_none()
    return None if found is None else dict(found._mapping)


def _has_adapter(change: Change, held: Held) -> bool:
    mine = (versions.c.memory == held.row, versions.c.number == held.current)
    found = change.connection.execute(sa.select(versions.c.adapter).where(*mine)).one_or_none()
    return found is not None and found.adapter is not None
