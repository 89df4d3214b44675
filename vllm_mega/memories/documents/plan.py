"""What has to change so that a bank has a document as it is now. Pure.

A memory of the bank goes on where its text is still in the document, wherever it stands there; then where a
text is much like its own; all others are forgotten. What goes on keeps its id, and its versions and adapter
until the text is another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from vllm_mega.bank.catalog.records import Source
from vllm_mega.bank.layout import NewMemory
from vllm_mega.memories.documents.names import part_id
from vllm_mega.memories.documents.sections import Part

_ALIKE = 0.5
"""Texts that share this part of their words are versions of one."""
_MOST_PAIRS = 250_000
"""Beyond so many, a document is another one, and nothing is compared."""

Change = Literal["add", "update", "link", "keep"]


class Known(NamedTuple):
    """A memory that the bank has of the document: its newest version."""

    id: str
    title: str
    text: str
    tags: tuple[str, ...]
    links: tuple[str, ...]
    source: Source | None


class Step(NamedTuple):
    """What becomes of one part of the document."""

    change: Change
    """A new memory; another text, title or tags; other links alone; nothing."""
    memory: NewMemory
    """As it will be, with all its links."""
    source: Source | None
    """As it will be: where nothing but links changes, that which it has."""
    tokens: int
    unlinked: tuple[str, ...] = ()
    """Links to be taken away, where it has none any more."""


class Plan(NamedTuple):
    """All that has to be done about one document."""

    source: str
    namespace: str
    steps: list[Step]
    """In the order of the document."""
    gone: list[Known]
    """To be forgotten."""


class Wish(NamedTuple):
    """What whoever remembers a document says of it."""

    namespace: str
    tags: tuple[str, ...] | None = None
    """Of all its memories; None: those that are there keep theirs."""


def make_plan(
    source: Source, parts: Sequence[Part], known: Sequence[Known], wish: Wish, is_taken: Callable[[str], bool]
) -> Plan:
    """What has to be done.

    Args:
        source: of the document, as it is now; without a span.
        parts: of the document, in order.
        known: all that the bank has of this source in the namespace.
        wish: see `Wish`.
        is_taken: whether the namespace has a memory of this id.
    """
    matches = matched(parts, known)
    ids = _ids(source.file, parts, matches, known, is_taken)
    mine = {*ids, *(memory.id for memory in known)}
    steps = [
        _step(source, part, matches.get(n), wish, _named(ids, n, mine, matches.get(n)))
        for n, part in enumerate(parts)
    ]
    kept = {memory.id for memory in matches.values()}
    return Plan(source.file, wish.namespace, steps, [memory for memory in known if memory.id not in kept])


def matched(parts: Sequence[Part], known: Sequence[Known]) -> dict[int, Known]:
    """By the number of a part, the memory that goes on in it."""
    by_part: dict[int, Known] = {}
    for form in (_title_and_text, _text):
        _pair_equal(parts, known, by_part, form)
    used = {memory.id for memory in by_part.values()}
    for n, memory in _alike(parts, known, by_part):
        if n not in by_part and memory.id not in used:
            by_part[n] = memory
            used.add(memory.id)
    return by_part


def _title_and_text(memory: Part | Known) -> tuple[str, str]:
    return memory.title, memory.text


def _text(memory: Part | Known) -> tuple[str, str]:
    return "", memory.text


def _pair_equal(
    parts: Sequence[Part],
    known: Sequence[Known],
    by_part: dict[int, Known],
    form: Callable[[Part | Known], tuple[str, str]],
) -> None:
    """Add to `by_part` what is equal in this form, in order."""
    used = {memory.id for memory in by_part.values()}
    free: dict[tuple[str, str], list[Known]] = defaultdict(list)
    for memory in known:
        if memory.id not in used:
            free[form(memory)].append(memory)
    for n, part in enumerate(parts):
        if n not in by_part and free.get(form(part)):
            by_part[n] = free[form(part)].pop(0)


def _alike(
    parts: Sequence[Part], known: Sequence[Known], by_part: Mapping[int, Known]
) -> Iterator[tuple[int, Known]]:
    """Pairs of what is left and shares enough words, the nearest first."""
    used = {memory.id for memory in by_part.values()}
    left = [(n, set(part.text.split())) for n, part in enumerate(parts) if n not in by_part]
    free = [(memory, set(memory.text.split())) for memory in known if memory.id not in used]
    if len(left) * len(free) > _MOST_PAIRS:
        return
    pairs = [(_share(words, known_words), n, memory) for n, words in left for memory, known_words in free]
    for share, n, memory in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2].id)):
        if share >= _ALIKE:
            yield n, memory


def _share(first: set[str], second: set[str]) -> float:
    return 2 * len(first & second) / (len(first) + len(second))


def _ids(
    source: str,
    parts: Sequence[Part],
    matches: Mapping[int, Known],
    known: Sequence[Known],
    is_taken: Callable[[str], bool],
) -> list[str]:
    """The id of each part."""
    used, ids = {memory.id for memory in known}, list[str]()

    def taken(name: str) -> bool:
        return name in used or is_taken(name)

    for n, part in enumerate(parts):
        before = matches.get(n)
        ids.append(before.id if before else part_id(source, part.text, taken))
        used.add(ids[-1])
    return ids


class _Named(NamedTuple):
    id: str
    links: tuple[str, ...]


def _named(ids: Sequence[str], n: int, mine: set[str], before: Known | None) -> _Named:
    """Its id, and its links: to its neighbours, and to memories of other sources, as before."""
    elsewhere = [link for link in (before.links if before else ()) if link not in mine]
    return _Named(ids[n], (*ids[max(n - 1, 0) : n], *ids[n + 1 : n + 2], *elsewhere))


def _step(source: Source, part: Part, before: Known | None, wish: Wish, named: _Named) -> Step:
    tags = wish.tags if wish.tags is not None else before.tags if before else ()
    memory = NewMemory(
        part.text, id=named.id, title=part.title, namespace=wish.namespace, tags=tags, links=named.links
    )
    now = Source(source.file, source.digest, part.start, part.end)
    if before is None:
        return Step("add", memory, now, part.tokens)
    unlinked = () if named.links else before.links
    if (before.text, before.title, before.tags) != (part.text, part.title, tags):
        return Step("update", memory, now, part.tokens, unlinked)
    same = before.links == named.links
    return Step("keep" if same else "link", memory, before.source, part.tokens, unlinked)
