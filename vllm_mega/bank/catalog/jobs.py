"""Jobs: which memories want an adapter, and which trainer makes it now.

A trainer leases jobs, trains for as long as it likes (and renews), places the adapter and publishes it. A
lease that ends without result goes back; the third that fails is the last. Nothing is locked while somebody
trains: memories can be changed and forgotten meanwhile, and then the lease is lost.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.claims import take
from vllm_mega.bank.catalog.events import Change, change
from vllm_mega.bank.catalog.reading import find_memory, find_version
from vllm_mega.bank.catalog.records import Job, Memory, MemoryName, Trained
from vllm_mega.bank.catalog.rows import Held, require
from vllm_mega.bank.catalog.tables import jobs, memories, versions
from vllm_mega.bank.catalog.writing import drop_job, queue, save, set_state, trained_values
from vllm_mega.errors import LeaseLostError, MemoryNotFoundError

ATTEMPTS = 3
"""Leases of a job, before it is given up."""


def lease(
    catalog: Catalog, owner: str, seconds: float, *, limit: int = 1, namespace: str | None = None
) -> list[Job]:
    """Take jobs that wait, or whose lease has ended, the oldest memories first.

    Args:
        catalog: of which bank.
        owner: who trains, for people to read: host and process.
        seconds: until another may take them, unless `renew` comes before.
        limit: how many at most.
        namespace: of whom; None: of everybody.

    Raises:
        BankError: the database refuses.
    """

    def act(changing: Change) -> list[Job]:
        now = catalog.database.now(changing.connection)
        _take_back(changing, now)
        waiting = _locked(namespace).where(jobs.c.state == "waiting").limit(limit)
        return [
            _lease(changing, row, owner, now + seconds) for row in changing.connection.execute(waiting).all()
        ]

    return change(catalog, owner, act)


def renew(catalog: Catalog, job: Job, seconds: float) -> Job:
    """Keep the lease for `seconds` from now.

    Raises:
        LeaseLostError: it is another's by now, or the memory was changed or forgotten: stop training.
    """

    def act(connection: sa.Connection) -> float:
        expires = catalog.database.now(connection) + seconds
        mine = sa.update(jobs).where(jobs.c.token == job.token).values(expires=expires)
        if connection.execute(mine).rowcount != 1:
            raise _lost(job)
        return expires

    return msgspec.structs.replace(job, expires=catalog.database.write(act))


def publish(catalog: Catalog, job: Job, trained: Trained, *, key: bytes | None = None) -> Memory:
    """Give the memory the adapter that `job` asked for: from now on its newest version answers.

    Args:
        catalog: of which bank.
        job: the lease.
        trained: the adapter, that `store.place` has placed.
        key: float32 [D]; None: the version has one, or needs none.

    Raises:
        LeaseLostError: as `renew`.
        BankError: the adapter was placed too long ago.
    """

    def act(changing: Change) -> Memory:
        held = _hold(changing, job)
        take(changing.connection, trained)
        _name_adapter(changing, held, job, trained_values(trained) | ({} if key is None else {"key": key}))
        drop_job(changing, held.row)
        save(changing, held._replace(state="ready", current=held.newest))
        changing.note("ready", held.row, held.name, held.newest)
        return find_memory(changing.connection, held.name)

    return change(catalog, job.owner, act)


def fail(catalog: Catalog, job: Job, reason: str) -> Memory:
    """Say why there is no adapter: the job goes back, or is given up for good after three leases.

    Raises:
        LeaseLostError: as `renew`.
    """

    def act(changing: Change) -> Memory:
        held = _hold(changing, job)
        _end(changing, held.row, held.name, held.newest, job.attempt, reason)
        return find_memory(changing.connection, held.name)

    return change(catalog, job.owner, act)


def give_back(catalog: Catalog, job: Job) -> None:
    """End the lease without a result, through no fault of the memory's: the attempt does not count.

    Raises:
        LeaseLostError: as `renew`.
    """

    def act(changing: Change) -> None:
        held = _hold(changing, job)
        _wait(changing, held.row, job.attempt - 1, "")
        set_state(changing, held.row, "pending")
        changing.note("returned", held.row, held.name, held.newest)

    change(catalog, job.owner, act)


def request(catalog: Catalog, name: MemoryName, who: str) -> Memory:
    """Have the memory's newest version trained (again), from the first attempt on; what it has still answers.

    Raises:
        MemoryNotFoundError: no such memory.
    """

    def act(changing: Change) -> Memory:
        held = require(changing.connection, name)
        drop_job(changing, held.row)
        digest = find_version(changing.connection, name, held.newest).text_digest
        set_state(changing, held.row, queue(changing, held.row, digest).state)
        changing.note("queued", held.row, name, held.newest)
        return find_memory(changing.connection, name)

    return change(catalog, who, act)


def _locked(namespace: str | None) -> sa.Select[Any]:
    """Jobs and their memories that nobody else is changing at this moment."""
    m = memories.c
    query = sa.select(m.row, m.namespace, m.id, m.newest, jobs.c.text_digest, jobs.c.owner, jobs.c.attempts)
    query = query.join(jobs, jobs.c.memory == m.row).order_by(m.row)
    chosen = query if namespace is None else query.where(m.namespace == namespace)
    return chosen.with_for_update(skip_locked=True, of=(memories, jobs))


def _take_back(changing: Change, now: float) -> None:
    """End the leases whose time is over."""
    over = _locked(None).where(jobs.c.state == "leased", jobs.c.expires < now)
    for row in changing.connection.execute(over).all():
        reason = f"the trainer {row.owner} had it for attempt {row.attempts} and gave no result in time"
        _end(changing, row.row, MemoryName(row.namespace, row.id), row.newest, row.attempts, reason)


def _end(changing: Change, row: int, name: MemoryName, version: int, attempts: int, reason: str) -> None:
    failed = attempts >= ATTEMPTS
    _wait(changing, row, attempts, reason, "failed" if failed else "waiting")
    set_state(changing, row, "failed" if failed else "pending")
    changing.note("failed" if failed else "returned", row, name, version)


def _wait(changing: Change, row: int, attempts: int, reason: str, state: str = "waiting") -> None:
    values = {"token": None, "owner": "", "expires": 0.0, "attempts": attempts, "reason": reason}
    changing.connection.execute(sa.update(jobs).where(jobs.c.memory == row).values(state=state, **values))


def _lease(changing: Change, row: sa.Row[Any], owner: str, expires: float) -> Job:
    job = Job(
        row.namespace, row.id, row.newest, row.text_digest, uuid.uuid4().hex, owner, row.attempts + 1, expires
    )
    values = {"token": job.token, "owner": owner, "expires": expires, "attempts": job.attempt}
    mine = jobs.c.memory == row.row
    changing.connection.execute(sa.update(jobs).where(mine).values(state="leased", **values))
    set_state(changing, row.row, "training")
    changing.note("leased", row.row, job.name, job.version)
    return job


def _hold(changing: Change, job: Job) -> Held:
    """The memory of a lease that is still held."""
    try:
        held = require(changing.connection, job.name)
    except MemoryNotFoundError as error:
        raise _lost(job) from error
    token = changing.connection.execute(sa.select(jobs.c.token).where(jobs.c.memory == held.row)).scalar()
    if token != job.token:
        raise _lost(job)
    return held


def _name_adapter(changing: Change, held: Held, job: Job, values: dict[str, Any]) -> None:
    """Give it to the newest version, and to all others of the same text that have none."""
    v = versions.c
    same = (v.memory == held.row, v.text_digest == job.text_digest)
    missing = v.adapter.is_(None) | (v.number == held.newest)
    changing.connection.execute(sa.update(versions).where(*same, missing).values(**values))


def _lost(job: Job) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of {job.namespace}/{job.id} (attempt {job.attempt}) has ended: another trainer has it, "
        "or the memory was changed or forgotten"
    )
