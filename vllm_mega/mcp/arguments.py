"""What models give the tools: structs that refuse what they do not know. The server checks the rest."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from vllm_mega.config import NAME_PATTERN

Id = Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$")]
Tag = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(min_length=1)]
Title = Annotated[str, Meta(description="a few words")]
Moment = Annotated[
    datetime,
    Meta(tz=True, description="a time (RFC 3339, with its zone) from which on it is forgotten"),
]
Etag = Annotated[
    str,
    Meta(
        max_length=128, description="`etag` of get_memory: do it only if nobody has changed the memory since"
    ),
]


class Remember(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `remember`."""

    text: Annotated[Text, Meta(description="what is remembered, word for word; must be clear by itself")]
    title: Title | UnsetType = UNSET
    tags: Annotated[tuple[Tag, ...], Meta(description="for filtering later")] | UnsetType = UNSET
    links: (
        Annotated[tuple[Id, ...], Meta(description="ids of memories that shall come to mind with this one")]
        | UnsetType
    ) = UNSET
    expires_at: Moment | UnsetType = UNSET


class SearchMemories(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `search_memories`."""

    query: Annotated[Text, Meta(description="a question, or what the memories are about")]
    tags: Annotated[tuple[Tag, ...], Meta(description="only memories that have all of these")] | UnsetType = (
        UNSET
    )
    limit: Annotated[int, Meta(ge=1, le=20, description="memories, at most")] = 5


class Recall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `recall`."""

    question: Annotated[Text, Meta(description="what is asked of memory, as a person would ask")]
    mode: Annotated[
        Literal["recall", "text"],
        Meta(description="recall: the memory, retold from the weights; text: an answer from its text"),
    ] = "recall"
    max_tokens: Annotated[int, Meta(ge=1, le=4096, description="of what is told, at most")] = 256


class GetMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `get_memory`."""

    id: Annotated[Id, Meta(description="of the memory")]
    version: (
        Annotated[int, Meta(ge=1, description="an earlier version; without it, the newest")] | UnsetType
    ) = UNSET


class ListMemories(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `list_memories`."""

    tag: Annotated[Tag, Meta(description="only memories with this tag")] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=100, description="memories of a page, at most")] = 20
    cursor: (
        Annotated[str, Meta(max_length=128, description="`next_cursor` of the page before")] | UnsetType
    ) = UNSET


class UpdateMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `update_memory`."""

    id: Annotated[Id, Meta(description="of the memory")]
    text: Annotated[Text, Meta(description="all of what it says from now on")] | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    tags: Annotated[tuple[Tag, ...], Meta(description="all that it has from now on")] | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET
    expires_at: Moment | UnsetType = UNSET
    etag: Etag | UnsetType = UNSET


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `forget`."""

    id: Annotated[Id, Meta(description="of the memory")]
    etag: Etag | UnsetType = UNSET


class LinkMemories(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `link_memories`."""

    id: Annotated[Id, Meta(description="of the memory that others shall come to mind with")]
    to: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=32, description="ids of the others")]
