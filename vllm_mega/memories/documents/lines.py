"""What has to change so that a bank has the memories of a file of lines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from vllm_mega.bank.catalog.records import Source, Version
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.memories.documents.plan import Plan, Step, Wish
from vllm_mega.memories.documents.sections import Count

Before = Callable[[NewMemory], tuple[Version, tuple[str, ...]] | None]
"""The newest version of a memory and its links; None: the bank does not have it."""


def plan_lines(
    source: Source, memories: Sequence[NewMemory], wish: Wish, before: Before, count: Count
) -> Plan:
    """What has to be done; nothing is forgotten, as a file of lines need not be all that there is.

    Args:
        source: of the file, as it is now.
        memories: as the file has them.
        wish: its namespace is that of memories that name none (or `default`); its tags come beside theirs.
        before: what the bank has of a memory.
        count: tells tokens.
    """
    wished = [_wished(memory, wish) for memory in memories]
    tokens = count([memory.text for memory in wished])
    steps = [_step(source, memory, before, length) for memory, length in zip(wished, tokens, strict=True)]
    return Plan(source.file, "", steps, [])


def _wished(memory: NewMemory, wish: Wish) -> NewMemory:
    namespace = memory.namespace if memory.namespace != DEFAULT_NAMESPACE else wish.namespace
    tags = tuple(dict.fromkeys((*memory.tags, *(wish.tags or ()))))
    return replace(memory, id=memory_id(memory), namespace=namespace, tags=tags)


def _step(source: Source, memory: NewMemory, before: Before, tokens: int) -> Step:
    known = before(memory)
    if known is None:
        return Step("add", memory, source, tokens)
    version, links = known
    if (text_digest(memory), memory.tags) != (version.text_digest, version.tags):
        return Step("update", memory, source, tokens)
    # A line without links, or without a time to expire at, leaves what there is.
    same = memory.expires_at is None and (not memory.links or memory.links == links)
    return Step("keep" if same else "link", memory, version.source, tokens)
