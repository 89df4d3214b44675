"""What clients ask: the parameters and bodies of all routes. Structs that refuse what they do not know."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vllm_mega.bank.catalog.records import Source, State
from vllm_mega.bank.layout import QA, Moment
from vllm_mega.memories.documents.division import FEWEST_TOKENS, MOST_ASKED
from vllm_mega.memories.updating import Update

MOST_LISTED = 1000
MOST_FOUND = 100
MOST_AT_ONCE = 1000
MOST_VERSIONS = 2**31 - 1
Namespace = Annotated[
    str | None, Meta(description="whose memories; without it, the first namespace that the key is for")
]
Train = Annotated[bool, Meta(description="whether a trainer shall make an adapter; else it stays a text")]
Number = Annotated[int, Meta(ge=1, le=MOST_VERSIONS)]
Tags = Annotated[tuple[str, ...], Meta(description="at most 32")]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of a route whose body says everything."""


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of a route that needs no others."""

    namespace: Namespace = None


class Dropped(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the routes that forget."""

    receipt: Annotated[
        bool,
        Meta(
            description="answer with a receipt that the bank has signed; it tells of the whole bank, so the "
            "key must be for all namespaces"
        ),
    ] = False


class Shown(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of `GET /v1/mega/memories/{id}`."""

    version: Annotated[Number | None, Meta(description="an earlier version; without it, the newest")] = None


class Listed(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of `GET /v1/mega/memories`."""

    tag: Annotated[str | None, Meta(description="only memories with this tag")] = None
    state: Annotated[State | None, Meta(description="only memories in this state")] = None
    source: Annotated[str | None, Meta(description="only memories that came from this source")] = None
    pinned: Annotated[bool | None, Meta(description="only memories that are pinned, or that are not")] = None
    retired: Annotated[bool | None, Meta(description="only memories that are retired, or that are not")] = (
        None
    )
    expired: Annotated[
        bool, Meta(description="memories that have expired and still lie on the disk, in place of the others")
    ] = False
    since: Annotated[float | None, Meta(description="changed at this time (seconds since 1970) or later")] = (
        None
    )
    until: Annotated[float | None, Meta(description="changed before this time (seconds since 1970)")] = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="memories of a page, at most")] = 100
    cursor: Annotated[str | None, Meta(description="`next_cursor` of the page before")] = None


class JobsListed(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of `GET /v1/mega/jobs`."""

    state: Annotated[
        Literal["waiting", "training", "failed"] | None, Meta(description="only jobs in this state")
    ] = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="jobs of a page, at most")] = 100
    cursor: Annotated[str | None, Meta(description="`next_cursor` of the page before")] = None


class After(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of `GET /v1/mega/events`."""

    after: Annotated[
        str | None, Meta(description="a token that an event had, or `next`; without it, from the first on")
    ] = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="events at once, at most")] = 100


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message's content."""

    text: str
    kind: Literal["text"] = msgspec.field(default="text", name="type")


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a conversation, as in a chat."""

    role: str
    content: str | tuple[TextPart, ...]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A memory to be remembered: `text`, or `messages`."""

    text: Annotated[str | None, Meta(description="what is remembered, word for word")] = None
    messages: Annotated[
        tuple[Message, ...] | None,
        Meta(description="what is remembered, as a conversation: a line for each message, behind its role"),
    ] = None
    id: Annotated[str, Meta(description="empty: derived from the text, so that the same text is the same memory")] = ""  # noqa: E501  # fmt: skip
    title: str = ""
    tags: Tags = ()
    links: Annotated[
        tuple[str, ...], Meta(description="ids of memories that come to mind with this one")
    ] = ()
    paraphrases: Annotated[tuple[str, ...], Meta(description="the same in other words, for training")] = ()
    qa: Annotated[tuple[QA, ...], Meta(description="questions and answers, for training")] = ()
    source: Annotated[Source | None, Meta(description="where the text came from")] = None
    expires_at: Annotated[
        Moment | None,
        Meta(description="from then on there is no such memory"),
    ] = None


class Remember(Item, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/mega/memories`: the fields of one memory, or `memories`."""

    memories: Annotated[
        Annotated[tuple[Item, ...], Meta(min_length=1, max_length=MOST_AT_ONCE)] | None,
        Meta(description="several, all of them or none; then no field of a single one"),
    ] = None
    namespace: Namespace = None
    train: Train = True


class Change(Update, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `PATCH /v1/mega/memories/{id}`: what is new; what is left out stays."""

    train: Train = True


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/mega/memories/{id}/restore`."""

    version: Annotated[Number, Meta(description="number of the version that comes back as the newest")]
    train: Train = True


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/mega/search`."""

    query: Annotated[str, Meta(min_length=1, description="a question, or anything")]
    namespace: Namespace = None
    tags: Annotated[tuple[str, ...], Meta(description="only memories that have all of these")] = ()
    limit: Annotated[int, Meta(ge=1, le=MOST_FOUND, description="memories, at most")] = 10
    explain: Annotated[bool, Meta(description="tell the threshold and the mixture, too")] = False
    top_k: Annotated[
        int | None, Meta(description="most memories of the mixture, in place of the server's")
    ] = None
    threshold: Annotated[float | None, Meta(description="least score, in place of the server's")] = None
    beta: Annotated[float | None, Meta(description="sharpness, in place of the server's")] = None
    link_share: Annotated[float | None, Meta(description="share of links, in place of the server's")] = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of `POST /v1/mega/documents`: `text`, or `content`."""

    source: Annotated[
        str,
        Meta(min_length=1, description="what it is called; its suffix is its type: .md, .txt, .html, ..."),
    ]
    text: Annotated[str | None, Meta(description="of a document that is a text")] = None
    content: Annotated[bytes | None, Meta(description="of any document, in base64")] = None
    tags: Annotated[
        tuple[str, ...] | None, Meta(description="of all its memories; without it, they keep theirs")
    ] = None
    tokens: Annotated[
        Annotated[int, Meta(ge=FEWEST_TOKENS, le=MOST_ASKED)] | None,
        Meta(description="most tokens of a memory; without it, 128"),
    ] = None
    dry_run: Annotated[bool, Meta(description="tell what would be done, and do nothing")] = False
    namespace: Namespace = None
    train: Train = True
