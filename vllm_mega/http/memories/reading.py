"""What is told of memories: lists, one, its history, jobs, and events."""

from __future__ import annotations

from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.records import Event, Filter, JobState, MemoryName
from vllm_mega.errors import RequestError
from vllm_mega.http.memories import told
from vllm_mega.http.memories.seals import Purpose
from vllm_mega.http.memories.service import Asked, Service, Told
from vllm_mega.memories import find_job, get_entry, history, list_memories, page_jobs

_STATES: dict[str, JobState] = {"waiting": "waiting", "training": "leased", "failed": "failed"}


def list_(service: Service, asked: Asked) -> Told:
    """A page of memories.

    Raises:
        RequestError: a cursor that no page of this namespace gave.
    """
    query = asked.query
    named = {name: getattr(query, name) for name in Filter.__struct_fields__ if name != "namespace"}
    cursor = None if query.cursor is None else str(_open(service, asked, query.cursor, "page", "cursor"))
    page = list_memories(service.catalog, Filter(asked.namespace, **named), limit=query.limit, cursor=cursor)
    more = page.cursor and service.seals.seal(int(page.cursor), "page", asked.namespace)
    return Told(told.Page(tuple(map(told.listed, page.memories)), more))


def show(service: Service, asked: Asked) -> Told:
    """A memory with its text.

    Raises:
        MemoryNotFoundError: no such memory, or no such version.
    """
    name = MemoryName(asked.namespace, asked.id)
    entry = get_entry(service.catalog, name, asked.query.version)
    return Told(told.full(entry, service.standing(name)), stamp=entry.stamp)


def past(service: Service, asked: Asked) -> Told:
    """All versions of a memory, and all that happened to it.

    Raises:
        MemoryNotFoundError: there never was such a memory.
    """
    found = history(service.catalog, MemoryName(asked.namespace, asked.id))
    versions = tuple(map(told.version_told, found.versions))
    return Told(told.History(asked.id, versions, _told(service, found.events)))


def job(service: Service, asked: Asked) -> Told:
    """What becomes of the wish to train a memory.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    memory, found = find_job(service.catalog, MemoryName(asked.namespace, asked.id))
    if found is None:
        return Told(told.Job(asked.id, "done" if memory.state == "ready" else "none", memory.newest, 0, ""))
    return Told(told.job_told(found))


def jobs(service: Service, asked: Asked) -> Told:
    """A page of jobs.

    Raises:
        RequestError: a cursor that no page of jobs of this namespace gave.
    """
    query = asked.query
    cursor = None if query.cursor is None else str(_open(service, asked, query.cursor, "jobs", "cursor"))
    page = page_jobs(
        service.catalog, asked.namespace, _STATES.get(query.state), limit=query.limit, cursor=cursor
    )
    more = page.cursor and service.seals.seal(int(page.cursor), "jobs", asked.namespace)
    return Told(told.JobPage(tuple(map(told.job_told, page.jobs)), more))


def events(service: Service, asked: Asked) -> Told:
    """Changes of the namespace after a token.

    Raises:
        RequestError: a token that no event of this namespace had.
    """
    after = first(service, asked)
    found = events_after(service.catalog, after, asked.query.limit, namespace=asked.namespace)
    last = found[-1].number if found else after
    return Told(told.Events(_told(service, found), service.seals.seal(last, "event", asked.namespace)))


def first(service: Service, asked: Asked) -> int:
    """Number of the event after which the client wants to hear.

    Raises:
        RequestError: as `events`.
    """
    after = asked.query.after
    return 0 if after is None else _open(service, asked, after, "event", "after")


def happened(service: Service, event: Event) -> told.Happened:
    """An event as clients see it."""
    return told.happened(event, service.seals.seal(event.number, "event", event.namespace))


def _told(service: Service, found: tuple[Event, ...] | list[Event]) -> tuple[told.Happened, ...]:
    return tuple(happened(service, event) for event in found)


def _open(service: Service, asked: Asked, token: str, purpose: Purpose, name: str) -> int:
    number = service.seals.open(token, purpose, asked.namespace)
    if number is None:
        raise RequestError(f"{token[:40]!r} is nothing that this namespace gave: begin without {name}", name)
    return number
