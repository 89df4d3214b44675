"""What banks and memories are made of: names and structs. No reading, no writing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from vllm_mega.config import DEFAULT_NAMESPACE, check_name, check_tags, repeated

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OLD_MANIFEST = "manifest.json"
"""What banks had before there was a catalog."""
MAX_TEXT = 64 << 20
"""Bytes of a memory, as others may have written it."""


Moment = Annotated[datetime, msgspec.Meta(tz=True, description="RFC 3339, with its zone")]


class BaseModelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The model that the adapters belong to."""

    name: str
    """Model id or path, as it was given."""
    fingerprint: str
    """`vllm_mega.models.fingerprint` of it."""
    chat_template: str = ""
    """Jinja, that the memories were trained with and are asked in; empty: the model's own."""


class EmbedderInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedder that made the keys."""

    name: str
    fingerprint: str
    dim: int


class QA(msgspec.Struct, frozen=True):
    """A question about a memory, for training or evaluation."""

    question: str
    answer: str


class NewMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a memory is, before it has an adapter; one line of the trainer's input."""

    text: str
    id: str = ""
    """Empty: derived from the text, so that the same line is the same memory."""
    title: str = ""
    namespace: str = DEFAULT_NAMESPACE
    tags: tuple[str, ...] = ()
    """For whoever asks: a request may be for memories with some tags alone (see `config.check_tags`)."""
    paraphrases: tuple[str, ...] = ()
    qa: tuple[QA, ...] = ()
    links: tuple[str, ...] = ()
    """Ids of memories of the same namespace that come to mind with this one; they need not be there (yet).
    Empty: the bank's links stay. What is not in `Content`, such as links and tags, is never trained on."""
    expires_at: Moment | None = None
    """From then on there is no such memory. None: what the bank has stays."""

    @property
    def expires(self) -> float | None:
        """`expires_at` in seconds since 1970."""
        return seconds_of(self.expires_at)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("text must not be empty")
        check_name(self.namespace, "namespace")
        if self.id:
            check_name(self.id, "id")
        check_links(self.links, self.id)
        check_tags(self.tags)
        seconds_of(self.expires_at)
        texts = (self.text, self.title, *self.tags, *self.paraphrases)
        _require_whole([*texts, *(part for qa in self.qa for part in (qa.question, qa.answer))])


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What trains a memory: all that its examples are made of."""

    text: str
    title: str = ""
    paraphrases: tuple[str, ...] = ()
    qa: tuple[QA, ...] = ()


def check_links(links: Sequence[str], memory_id: str) -> None:
    """Refuse links of the memory `memory_id` that name no memory, one twice, or itself.

    Raises:
        ValueError: as above; the message says which.
    """
    for link in links:
        check_name(link, "a link")
    if twice := repeated(links):
        raise ValueError(f"links names {', '.join(twice)} more than once")
    if memory_id in links:
        raise ValueError(f"links of {memory_id!r} names the memory itself: leave it out")


def seconds_of(moment: datetime | None) -> float | None:
    """A moment in seconds since 1970.

    Raises:
        ValueError: it names no zone.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"expires_at must name its zone, found {moment.isoformat()}")
    return moment.timestamp()


def moment_of(seconds: float | None) -> datetime | None:
    """Seconds since 1970 as a moment, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _require_whole(texts: Sequence[str]) -> None:
    """Refuse what no file can hold; it comes from arguments and other programs, never from JSON."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text has half a character (a lone surrogate)") from error
