"""Jobs: which memories want an adapter, and which trainer makes it now.

A trainer leases jobs, trains for as long as it likes (and renews), places the adapter and publishes it. A
lease that ends without result goes back; the third that fails is the last. Nothing is locked while somebody
trains: memories can be changed and forgotten meanwhile, and then the lease is lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.claims import take
from vllm_mega.bank.catalog.events import Change, change
from vllm_mega.bank.catalog.reading import find_memory, find_version
from vllm_mega.bank.catalog.records import Job, Memory, MemoryName, Trained
from vllm_mega.bank.catalog.rows import Held, among, living, require
from vllm_mega.bank.catalog.tables import jobs, memories, versions
from vllm_mega.bank.catalog.writing import drop_job, queue, save, set_state, trained_values
from vllm_mega.errors import LeaseLostError, MemoryNotFoundError

ATTEMPTS = 3
"""Leases of a job, before it is given up."""


def lease(
    catalog: Catalog,
    owner: str,
    seconds: float,
    *,
    limit: int = 1,
    namespace: str | None = None,
    names: Sequence[MemoryName] | None = None,
) -> list[Job]:
    """Take jobs that wait, or whose lease has ended, the oldest memories first; none of retired memories.

    Args:
        catalog: of which bank.
        owner: who trains, for people to read: host and process.
        seconds: until another may take them, unless `renew` comes before.
        limit: how many at most.
        namespace: of whom; None: of everybody.
        names: of these memories alone, a few hundred at most; None: of all.

    Raises:
        BankError: the database refuses.
    """

    def act(changing: Change) -> list[Job]:
        now = catalog.database.now(changing.connection)
        _end_leases(changing, jobs.c.expires < now)
        answers = (living(), sa.not_(memories.c.retired))
        waiting = _locked(namespace, names).where(jobs.c.state == "waiting", *answers).limit(limit)
        found = changing.connection.execute(waiting).all()
        return [_lease(changing, row, owner, now, seconds) for row in found]

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


def progress(catalog: Catalog, held: Sequence[Job], steps: int) -> None:
    """Say how many steps of training have been made for these jobs; nothing of a lease that is lost.

    Leaves no event: who wants to know looks at the jobs.

    Raises:
        BankError: the database refuses.
    """
    mine = jobs.c.token.in_([job.token for job in held])
    told = sa.update(jobs).where(mine).values(steps=steps)
    catalog.database.write(lambda connection: connection.execute(told))


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
    return change(catalog, job.owner, lambda changing: _publish(changing, job, trained, key))


def publish_all(
    catalog: Catalog, results: Sequence[tuple[Job, Trained]], owner: str
) -> list[Memory | LeaseLostError]:
    """As `publish`, of several in one transaction; of each, in order, the memory, or that its lease is lost.

    Raises:
        BankError: as `publish`; then none is published.
    """

    def act(changing: Change) -> list[Memory | LeaseLostError]:
        found: dict[MemoryName, Memory | LeaseLostError] = {}
        for job, trained in sorted(results, key=lambda result: result[0].name):
            try:
                found[job.name] = _publish(changing, job, trained, None)
            except LeaseLostError as error:
                found[job.name] = error
        return [found[job.name] for job, _ in results]

    return change(catalog, owner, act)


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


def request_training(catalog: Catalog, names: Iterable[MemoryName], who: str) -> list[Memory]:
    """Have the newest versions of memories trained (again), from the first attempt on.

    Raises:
        MemoryNotFoundError: there is no such memory; then none is trained.
    """
    chosen = sorted(set(names))
    return change(catalog, who, lambda changing: [_request(changing, name) for name in chosen])


def take_back(catalog: Catalog, owner: Callable[[str], bool], who: str) -> None:
    """End the leases of all owners for whom `owner` is true: their processes are known to be dead.

    Raises:
        BankError: the database refuses.
    """
    leased = sa.select(jobs.c.owner).where(jobs.c.state == "leased").distinct()
    with catalog.database.read() as connection:
        dead = [found for found in connection.execute(leased).scalars() if owner(found)]
    if dead:
        change(catalog, who, lambda changing: _end_leases(changing, jobs.c.owner.in_(dead)))


def _publish(changing: Change, job: Job, trained: Trained, key: bytes | None) -> Memory:
    held = _hold(changing, job)
    take(changing.connection, trained)
    _name_adapter(changing, held, job, trained_values(trained) | ({} if key is None else {"key": key}))
    drop_job(changing, held.row)
    save(changing, held._replace(state="ready", current=held.newest))
    changing.note("ready", held.row, held.name, held.newest)
    return find_memory(changing.connection, held.name)


def _request(changing: Change, name: MemoryName) -> Memory:
    held = require(changing.connection, name)
    drop_job(changing, held.row)
    digest = find_version(changing.connection, name, held.newest).text_digest
    set_state(changing, held.row, queue(changing, held.row, digest).state)
    changing.note("queued", held.row, name, held.newest)
    return find_memory(changing.connection, name)


def _locked(namespace: str | None, names: Sequence[MemoryName] | None = None) -> sa.Select[Any]:
    """Jobs and their memories that nobody else is changing at this moment."""
    m = memories.c
    query = sa.select(m.row, m.namespace, m.id, m.newest, jobs.c.text_digest, jobs.c.owner, jobs.c.attempts)
    query = query.join(jobs, jobs.c.memory == m.row).order_by(m.row)
    if namespace is not None:
        query = query.where(m.namespace == namespace)
    if names is not None:
        query = query.where(among(names))
    return query.with_for_update(skip_locked=True, of=(memories, jobs))


def _end_leases(changing: Change, over: sa.ColumnElement[bool]) -> None:
    """End those leases, as an attempt without a result."""
    ended = _locked(None).where(jobs.c.state == "leased", over)
    for row in changing.connection.execute(ended).all():
        reason = f"the trainer {row.owner} had it for attempt {row.attempts} and gave no result in time"
        _end(changing, row.row, MemoryName(row.namespace, row.id), row.newest, row.attempts, reason)


def _end(changing: Change, row: int, name: MemoryName, version: int, attempts: int, reason: str) -> None:
    failed = attempts >= ATTEMPTS
    _wait(changing, row, attempts, reason, "failed" if failed else "waiting")
    set_state(changing, row, "failed" if failed else "pending")
    changing.note("failed" if failed else "returned", row, name, version)


def _wait(changing: Change, row: int, attempts: int, reason: str, state: str = "waiting") -> None:
    values = {"token": None, "owner": "", "expires": 0.0, "started": 0.0, "steps": 0}
    values |= {"attempts": attempts, "reason": reason}
    changing.connection.execute(sa.update(jobs).where(jobs.c.memory == row).values(state=state, **values))


def _lease(changing: Change, row: sa.Row[Any], owner: str, now: float, seconds: float) -> Job:
    token, attempt = uuid.uuid4().hex, row.attempts + 1
    job = Job(row.namespace, row.id, row.newest, row.text_digest, token, owner, attempt, now + seconds)
    values = {"token": token, "owner": owner, "expires": job.expires, "started": now, "attempts": attempt}
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
