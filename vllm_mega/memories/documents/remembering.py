"""Plans made of what the catalog has, and carried out in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.forgetting import Receipt, forget
from vllm_mega.bank.catalog.known import ids_beginning
from vllm_mega.bank.catalog.reading import MOST, get_memory, list_memories
from vllm_mega.bank.catalog.records import Filter, Memory, MemoryName, Source, Version
from vllm_mega.bank.catalog.replacing import Replacement, replace
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import DocumentError, MemoryNotFoundError
from vllm_mega.gate.embedder import Embedder
from vllm_mega.memories.documents.division import Size
from vllm_mega.memories.documents.lines import plan_lines
from vllm_mega.memories.documents.names import prefix_of
from vllm_mega.memories.documents.plan import Known, Plan, Wish, make_plan
from vllm_mega.memories.documents.reading import ReadDocument, ReadLines
from vllm_mega.memories.documents.sections import Count, document_parts
from vllm_mega.memories.drafting import draft, keys_of
from vllm_mega.memories.reading import get_entry


def make_plans(
    catalog: Catalog | None,
    read: Sequence[ReadDocument | ReadLines],
    wish: Wish,
    count: Count,
    size: Size,
) -> list[Plan]:
    """What each file changes in a bank. Writes nothing.

    Args:
        catalog: of the bank; None: there is none yet.
        read: what the files say.
        wish: namespace and tags.
        count: tells tokens of the base model.
        size: of the memories of documents.

    Raises:
        DocumentError: two files have a memory of the same id.
        BankError: the catalog cannot be read.
    """
    plans = [_plan(catalog, file, wish, count, size) for file in read]
    seen: dict[MemoryName, str] = {}
    for plan in plans:
        for step in plan.steps:
            earlier = seen.setdefault(_name(step.memory), plan.source)
            if earlier != plan.source:
                raise DocumentError(
                    f"{plan.source}: {earlier} has a memory {step.memory.id!r}, too: drop one"
                )
    return plans


def carry_out(
    catalog: Catalog,
    plan: Plan,
    embedder: Embedder,
    who: str,
    *,
    train: bool = False,
    most: int | None = None,
) -> None:
    """Do what a plan says, all of it or nothing.

    Args:
        catalog: of the bank.
        plan: see `make_plans`.
        embedder: the bank's own.
        who: for the history.
        train: whether a trainer shall make adapters; else they stay as texts.
        most: memories that the namespace may have then; None: any number.

    Raises:
        BankMismatchError: the bank was made with another embedder; then nothing has changed.
        LimitError: more than `most`; then nothing has changed.
        BankError: the catalog refuses.
    """
    written = [step for step in plan.steps if step.change in ("add", "update")]
    keys = keys_of(catalog, [step.memory.text for step in written], embedder)
    pairs = zip(written, keys, strict=True)
    wanted = Replacement(
        drafts=[draft(step.memory, key, step.source, train=train) for step, key in pairs],
        amended=[step.memory for step in plan.steps if step.change == "link"],
        unlinked={_name(step.memory): step.unlinked for step in plan.steps if step.unlinked},
        gone=_gone(plan),
    )
    replace(catalog, wanted, who, most=most)


def finish(catalog: Catalog, plan: Plan, who: str) -> None:
    """Do what is left of a plan whose memories are stored: forget what is gone, and links to it.

    Raises:
        BankError: the catalog refuses.
    """
    unlinked = {_name(step.memory): step.unlinked for step in plan.steps if step.unlinked}
    replace(catalog, Replacement(unlinked=unlinked, gone=_gone(plan)), who)


def _gone(plan: Plan) -> list[MemoryName]:
    return [MemoryName(plan.namespace, memory.id) for memory in plan.gone]


def forget_path(catalog: Catalog, path: str, who: str, namespace: str | None = None) -> Receipt:
    """As `forget_source`, of a source that is called so, or by its absolute path.

    Raises:
        MemoryNotFoundError: none came from it.
        BankError: the catalog refuses.
    """
    try:
        return forget_source(catalog, path, who, namespace)
    except MemoryNotFoundError:
        return forget_source(catalog, os.path.abspath(path), who, namespace)  # noqa: PTH100  (links stay)


def forget_source(catalog: Catalog, source: str, who: str, namespace: str | None = None) -> Receipt:
    """Forget all memories that came from a source.

    Args:
        catalog: of the bank.
        source: `Source.file`.
        who: for the history.
        namespace: only those of this one; None: of all.

    Raises:
        MemoryNotFoundError: none came from it.
        BankError: the catalog refuses.
    """
    memories = list(_memories(catalog, Filter(namespace, source=source)))
    if not memories:
        raise MemoryNotFoundError(f"no memory came from {source}")
    return forget(catalog, [memory.name for memory in memories], who)


def _plan(
    catalog: Catalog | None, read: ReadDocument | ReadLines, wish: Wish, count: Count, size: Size
) -> Plan:
    bank = _Bank(catalog)
    if isinstance(read, ReadLines):
        return plan_lines(Source(read.source, read.digest), read.memories, wish, bank.before, count)
    source = Source(read.document.source, read.document.digest)
    parts = document_parts(read.document, read.text, count, size)
    known = list(bank.known(source.file, wish.namespace))
    taken = bank.ids(wish.namespace, prefix_of(source.file))
    return make_plan(source, parts, known, wish, taken.__contains__)


class _Bank(NamedTuple):
    """What plans ask a catalog; nothing is in none."""

    catalog: Catalog | None

    def known(self, source: str, namespace: str) -> Iterator[Known]:
        """All memories of a source, in the order in which they stand there, as far as it is known."""
        memories = sorted(_memories(self.catalog, Filter(namespace, source=source)), key=_place)
        for memory in memories:
            version, links = self._newest(memory)
            yield Known(memory.id, version.title, version.text, version.tags, links, memory.source)

    def before(self, memory: NewMemory) -> tuple[Version, tuple[str, ...]] | None:
        """The newest version of a memory, and its links."""
        if self.catalog is None or not self.has(_name(memory)):
            return None
        return self._newest(get_memory(self.catalog, *_name(memory)))

    def ids(self, namespace: str, prefix: str) -> frozenset[str]:
        """Ids of memories that begin so.

        All at once: a server's other threads wait, while one asks a database hundreds of small things.
        """
        return frozenset() if self.catalog is None else ids_beginning(self.catalog, namespace, prefix)

    def has(self, name: MemoryName) -> bool:
        """Whether there is such a memory."""
        if self.catalog is None:
            return False
        try:
            get_memory(self.catalog, *name)
        except MemoryNotFoundError:
            return False
        return True

    def _newest(self, memory: Memory) -> tuple[Version, tuple[str, ...]]:
        assert self.catalog is not None
        entry = get_entry(self.catalog, memory.name)
        return entry.version, entry.links


def _memories(catalog: Catalog | None, chosen: Filter) -> Iterator[Memory]:
    cursor, more = None, catalog is not None
    while more:
        assert catalog is not None
        page = list_memories(catalog, chosen, limit=MOST, cursor=cursor)
        yield from page.memories
        cursor, more = page.cursor, page.cursor is not None


def _place(memory: Memory) -> tuple[int, str]:
    start = memory.source.start if memory.source else None
    return (-1 if start is None else start, memory.id)


def _name(memory: NewMemory) -> MemoryName:
    return MemoryName(memory.namespace, memory.id)
