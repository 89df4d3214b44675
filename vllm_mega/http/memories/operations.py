"""All routes about memories, as a table: what each is asked, who may, what does it, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_mega.access.principals import Role
from vllm_mega.http.entrance import ROOM
from vllm_mega.http.memories import asked, changing, documents, finding, found, reading, repeating, told
from vllm_mega.http.memories.service import Asked, Service, Told
from vllm_mega.memories.receipts.signing import SignedReceipt

MEMORY = ROOM + "memories/{id}"


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    name: str
    """In the audit log, and the operation's id in OpenAPI."""
    method: str
    path: str
    role: Role
    about: str
    act: Callable[[Service, Asked], Told]
    tells: tuple[type[Any], ...]
    """The type of the answer, or one of these."""
    query: type[Any] = asked.Where
    body: type[Any] | None = None
    """None: it has none; else it names a namespace, where `query` does not."""
    status: int = 200
    conditional: bool = False
    """It heeds If-Match."""
    again: Callable[[Service, Asked, Any], Told] | None = None
    """What is told when the request comes twice, of what was kept; None: it heeds no Idempotency-Key."""
    example: Any = None
    """A body."""


OPERATIONS = (
    Operation(
        "remember", "POST", ROOM + "memories", "write",
        "Remember one memory, or many: all of them or none. A memory answers as text at once, and by its "
        "adapter once a trainer has made one. One that is there already gets a new version, if anything "
        "in it is new.",
        changing.add, (told.Remembered, told.RememberedList), query=asked.Nothing, body=asked.Remember,
        status=202, again=repeating.stored_again,
        example={"text": "The ferry to Sill is pulled by four oxen.", "title": "The ferry",
                 "tags": ["travel"]},
    ),
    Operation(
        "list_memories", "GET", ROOM + "memories", "read",
        "List memories, the latest added first. Memories that come or go between two pages leave the others "
        "where they are.",
        reading.list_, (told.Page,), query=asked.Listed,
    ),
    Operation(
        "get_memory", "GET", MEMORY, "read",
        "A memory with its text. The header ETag changes whenever somebody changes the memory.",
        reading.show, (told.FullMemory,), query=asked.Shown,
    ),
    Operation(
        "update_memory", "PATCH", MEMORY, "write",
        "Change a memory. What is left out stays, and so does what is null, but for `expires_at`. The "
        "version that answers goes on until the new one has its adapter; what is no text trains nothing.",
        changing.change, (told.FullMemory,), body=asked.Change, conditional=True, again=repeating.shown_again,
        example={"text": "The ferry to Sill is pulled by six oxen."},
    ),
    Operation(
        "forget", "DELETE", MEMORY, "write",
        "Forget a memory: text, key, versions, adapter, and what the engines have of it. An event without "
        "content stays.",
        changing.drop, (told.Deleted, SignedReceipt), query=asked.Dropped, conditional=True,
        again=repeating.deleted_again,
    ),
    Operation(
        "get_history", "GET", MEMORY + "/history", "read",
        "All versions of a memory, and all that happened to it; of a forgotten one the events alone.",
        reading.past, (told.History,),
    ),
    Operation(
        "restore", "POST", MEMORY + "/restore", "write",
        "Make an earlier version the newest again, with its adapter, if it had one.",
        changing.bring_back, (told.FullMemory,), body=asked.Restore, conditional=True,
        again=repeating.shown_again, example={"version": 1},
    ),
    Operation(
        "search", "POST", ROOM + "search", "read",
        "What the gate would find, the best first; nothing is generated.",
        finding.find, (found.FoundList,), query=asked.Nothing, body=asked.Search,
        example={"query": "What pulls the ferry?", "limit": 3, "explain": True},
    ),
    Operation(
        "remember_document", "POST", ROOM + "documents", "write",
        "Divide a document into memories. The same source again: what is still there goes on, what is gone "
        "is forgotten.",
        documents.store, (told.DocumentStored,), query=asked.Nothing, body=asked.Document, status=202,
        again=repeating.document_again,
        example={"source": "ferry.md", "text": "# The ferry\n\nThe ferry to Sill is pulled by four oxen."},
    ),
    Operation(
        "forget_source", "DELETE", ROOM + "sources/{id:path}", "write",
        "Forget all memories that came from a source.",
        changing.drop_source, (told.SourceDeleted, SignedReceipt), query=asked.Dropped,
        again=repeating.source_deleted_again,
    ),
    Operation(
        "list_jobs", "GET", ROOM + "jobs", "read",
        "List what waits for a trainer, what is trained now, and what was given up, in the order in which "
        "trainers take it. Memories that are done have no job.",
        reading.jobs, (told.JobPage,), query=asked.JobsListed,
    ),
    Operation(
        "get_job", "GET", ROOM + "jobs/{id}", "read",
        "What becomes of the wish to train a memory; a job has the id of its memory.",
        reading.job, (told.Job,),
    ),
    Operation(
        "list_events", "GET", ROOM + "events", "read",
        "All changes in their order, or those after a token. With `Accept: text/event-stream` they come as "
        "they happen, as server-sent events; a stream ends after some minutes, and goes on behind the header "
        "Last-Event-ID.",
        reading.events, (told.Events,), query=asked.After,
    ),
)  # fmt: skip
