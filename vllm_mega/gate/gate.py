"""The gate: query -> scores -> mixture. Never looks outside the namespace of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vllm_mega.bank.layout import MemoryEntry
from vllm_mega.bank.reader import BankReader, BankSnapshot
from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings
from vllm_mega.errors import MixtureError
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.selection import NO_CHANCE, Links, Scores, best_of, ranking, select
from vllm_mega.gate.spread import spread
from vllm_mega.gate.twins import settled
from vllm_mega.gate.vectors import Vectors
from vllm_mega.mixture import WEIGHT_STEPS, Mixture, quantise


@dataclass(frozen=True)
class Query:
    """A text, and whose memories it may meet."""

    text: str
    namespace: str = DEFAULT_NAMESPACE
    settings: GateSettings = field(default_factory=GateSettings)
    dialogue: str | None = None
    """The conversation that the text belongs to; a score is then the mean of both cosines."""
    tags: tuple[str, ...] = ()
    """Only memories that have all of these take part; of others nothing is told."""


@dataclass(frozen=True)
class Hit:
    """A memory, as one query sees it."""

    id: str
    title: str
    score: float | None
    """Cosine with the query, not raised by links; None: a client has named the memory."""
    weight: float
    """A multiple of 1/64; 0: not used."""
    entry: MemoryEntry


@dataclass(frozen=True)
class Decision:
    """Which memories a request uses."""

    mixture: Mixture
    hits: tuple[Hit, ...]
    """The memories of the mixture, heaviest first."""
    best_score: float | None
    """Of any memory that took part, used or not; None: none did, or nothing was compared."""
    generation: int
    """Of the bank that was asked."""


def alone(decision: Decision) -> Decision:
    """The heaviest memory of `decision` with the whole weight: a blend recites nothing word for word."""
    if len(decision.hits) < 2:
        return decision
    hit = replace(decision.hits[0], weight=1.0)
    one = next(c for c in decision.mixture.components if c.adapter == hit.entry.adapter)
    return replace(decision, mixture=Mixture([(one.adapter, one.path, 1.0)]), hits=(hit,))


@dataclass(frozen=True)
class _Shelf:
    """The memories of one namespace."""

    entries: list[MemoryEntry]
    ids: list[str]
    keys: npt.NDArray[np.float32]
    """[N, D]"""
    ages: list[tuple[int, int]]
    """Newer memories have greater ones: versions are generations, and of one generation the later row."""
    links: Links
    """Those that lead to a memory of the shelf."""
    tagged: dict[str, frozenset[int]]
    """By tag, the positions of the memories that have it."""

    def among(self, tags: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether each memory, [N], has all of `tags`, of which there are some."""
        mask = np.zeros(len(self.ids), np.bool_)
        with_all = frozenset.intersection(*(self.tagged.get(tag, frozenset()) for tag in tags))
        mask[list(with_all)] = True
        return mask


class Gate:
    """Decides which memories a query needs. Thread-safe."""

    def __init__(self, reader: BankReader, embedder: Embedder) -> None:
        """`reader` should know `embedder.info`, so that a bank of another embedder is refused."""
        self._reader = reader
        self._embedder = embedder
        self._spread = spread(embedder)
        self._shelves: tuple[BankSnapshot | None, dict[str, _Shelf]] = (None, {})

    def decide(self, queries: Sequence[Query]) -> list[Decision]:
        """A mixture for each query; the texts are embedded in one call.

        A query gets the same mixture alone and among others.

        Raises:
            BankError: the bank cannot be read, or is another embedder's.
        """
        snapshot = self._reader.snapshot()
        vectors = query_vectors(self._embedder, queries)
        return [self._decide(snapshot, *each)[0] for each in zip(queries, vectors, strict=True)]

    def explain(self, query: Query) -> tuple[Decision, tuple[Hit, ...]]:
        """The decision for `query`, and every memory of its namespace that has its tags, the best first.

        Raises:
            BankError: as `decide`.
        """
        snapshot = self._reader.snapshot()
        shelf = self._shelf(snapshot, query.namespace)
        (vectors,) = query_vectors(self._embedder, [query])
        decision, scores = self._decide(snapshot, query, vectors)
        weights = {hit.id: hit.weight for hit in decision.hits}
        order = [i for i in ranking(scores, shelf.ids) if scores[i] > NO_CHANCE]
        return decision, tuple(
            _hit(shelf.entries[i], scores[i], weights.get(shelf.ids[i], 0.0)) for i in order
        )

    def _decide(self, snapshot: BankSnapshot, query: Query, vectors: Vectors) -> tuple[Decision, Scores]:
        shelf, settings = self._shelf(snapshot, query.namespace), query.settings
        scores, links = best_of(shelf.keys, vectors), shelf.links
        if query.tags:  # of all first, so that a memory has the same score whatever tags are asked for
            among = shelf.among(query.tags)
            scores, links = np.where(among, scores, NO_CHANCE), _within(links, among)
        settled_scores = settled(scores, shelf.keys, shelf.ages, shelf.ids, settings, self._spread)
        chosen = select(settled_scores, shelf.ids, settings, links)
        hits = [_hit(shelf.entries[i], scores[i], n / WEIGHT_STEPS) for i, n in chosen]
        best = float(scores.max(initial=NO_CHANCE))
        return _decision(snapshot, hits, None if best == NO_CHANCE else best), scores

    def explicit(self, namespace: str, memories: Sequence[tuple[str, float]]) -> Decision:
        """The mixture that a client asks for: (id, weight) pairs, used as they are but for steps of 1/64.

        Raises:
            MixtureError: a memory twice, or a weight that is no finite number, too large or rounds to 0.
            MemoryNotFoundError: the namespace has no such memory.
            BankError: the bank cannot be read.
        """
        snapshot = self._reader.snapshot()
        steps: dict[str, int] = {}
        for name, weight in memories:
            if name in steps:
                raise MixtureError(f"memory {name!r} is named twice: give it one weight", "mega.memories")
            steps[name] = quantise(weight)
            if not steps[name]:
                raise MixtureError(
                    f"the weight of {name!r} rounds to 0 in steps of 1/{WEIGHT_STEPS}, got {weight!r}: "
                    "leave the memory out, or give it more",
                    "mega.memories",
                )
        hits = [_hit(snapshot.get(namespace, name), None, n / WEIGHT_STEPS) for name, n in steps.items()]
        hits.sort(key=lambda hit: (-hit.weight, hit.id))
        return _decision(snapshot, hits, None)

    def _shelf(self, snapshot: BankSnapshot, namespace: str) -> _Shelf:
        """The memories of `namespace`, put together once in a generation (two threads may both do it)."""
        last, shelves = self._shelves
        if last is not snapshot:
            shelves = {}
            self._shelves = (snapshot, shelves)
        shelf = shelves.get(namespace)
        if shelf is None:
            rows = snapshot.rows(namespace)
            entries = [snapshot.manifest.memories[row] for row in rows]
            ages = [(entry.version, n) for n, entry in enumerate(entries)]
            ids = [entry.id for entry in entries]
            shelf = _Shelf(entries, ids, snapshot.keys[rows], ages, _links(entries), _tagged(entries))
            if entries:  # clients may ask for any number of namespaces that nobody has
                shelves[namespace] = shelf
        return shelf


def query_vectors(embedder: Embedder, queries: Sequence[Query]) -> list[Vectors]:
    """What is compared with the keys, for each query float32 [W, D]; all texts are embedded in one call.

    A query has a vector for each of its passages, of which the best counts; none where the embedder cannot
    read it. In a dialogue each is the mean of two unit vectors, which is shorter than 1 the more they differ:
    scores are then means of two cosines, and what only one of them is about has to be twice as near.
    """
    passages = [embedder.passages(query.text) for query in queries]
    talks = [_talk(embedder, query) if some else [] for query, some in zip(queries, passages, strict=True)]
    vectors = embedder.embed([text for some in (*passages, *talks) for text in some])
    found = np.split(vectors, np.cumsum([len(some) for some in (*passages, *talks)]))
    return [
        (own + talk) / np.float32(2) if len(talk) else own
        for own, talk in zip(found[: len(queries)], found[len(queries) : -1], strict=True)
    ]


def _talk(embedder: Embedder, query: Query) -> list[str]:
    """The dialogue of `query`, if there is one that says more and can be read."""
    if query.dialogue in (None, query.text) or not embedder.passages(query.dialogue):
        return []
    return [query.dialogue]


def _links(entries: Sequence[MemoryEntry]) -> Links:
    """By position in `entries`; links to what is not there lead nowhere."""
    at = {entry.id: n for n, entry in enumerate(entries)}
    return {n: [at[link] for link in e.links if link in at] for n, e in enumerate(entries) if e.links}


def _within(links: Links, among: npt.NDArray[np.bool_]) -> Links:
    """Those that lead to a memory that takes part."""
    return {n: [other for other in others if among[other]] for n, others in links.items()}


def _tagged(entries: Sequence[MemoryEntry]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for n, entry in enumerate(entries):
        for tag in entry.tags:
            found.setdefault(tag, set()).add(n)
    return {tag: frozenset(positions) for tag, positions in found.items()}


def _decision(snapshot: BankSnapshot, hits: Sequence[Hit], best_score: float | None) -> Decision:
    mixture = Mixture((hit.entry.adapter, str(snapshot.folder(hit.entry)), hit.weight) for hit in hits)
    return Decision(mixture, tuple(hits), best_score, snapshot.generation)


def _hit(entry: MemoryEntry, score: float | None, weight: float) -> Hit:
    return Hit(entry.id, entry.title, None if score is None else float(score), weight, entry)
