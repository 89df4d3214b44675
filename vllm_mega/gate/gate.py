"""The gate: query -> scores -> mixture. Never looks outside the namespace of the query."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vllm_mega.bank.catalog.records import Row
from vllm_mega.bank.library import Library
from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings
from vllm_mega.errors import MixtureError
from vllm_mega.gate import explaining
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.explaining import Weighed, Why, runners_up
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.index.shelf import Asked, Found
from vllm_mega.gate.salience import Tip, tipped
from vllm_mega.gate.selection import Links, select, winners
from vllm_mega.gate.spread import spread
from vllm_mega.gate.twins import ENOUGH, settled
from vllm_mega.gate.uses import UseTracker
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
    explain: bool = False
    """Whether to tell who came next, and what links did."""


@dataclass(frozen=True)
class Hit:
    """A memory, as one query sees it."""

    id: str
    title: str
    score: float | None
    """Cosine with the query, not raised by links; None: a client has named the memory."""
    weight: float
    """A multiple of 1/64; 0: not used."""
    row: Row
    text: str | None = None
    """What the model reads of it; None: it reads nothing, the memory's adapter acts."""


@dataclass(frozen=True)
class Followed:
    """A link that was followed."""

    source: str
    """Id of the memory that has it."""
    target: str
    score: float
    """Of the target, its own."""
    raised: float
    """Its score by the link; its own, if that is higher."""


@dataclass(frozen=True)
class Explanation:
    """Why a decision is as it is."""

    runners_up: tuple[tuple[Hit, Why], ...]
    """The best of those that are not used, with the reason of each."""
    links: tuple[Followed, ...]
    tips: tuple[Tip, ...] | None = None
    """Of memories as near as the best, but for a margin, of which use decides; None: use does not count."""


@dataclass(frozen=True)
class Decision:
    """Which memories a request uses."""

    mixture: Mixture
    """Of those that have an adapter."""
    hits: tuple[Hit, ...]
    """The memories that are used, heaviest first; those without an adapter are read as texts."""
    best_score: float | None
    """Of any memory that took part, used or not; None: none did, or nothing was compared."""
    event: int
    """Of the bank: all that happened up to it was known, and nothing later."""
    explanation: Explanation | None = None
    """None: nobody asked for it, or nothing was compared."""


def alone(decision: Decision) -> Decision:
    """The heaviest memory of `decision` with the whole weight: a blend recites nothing word for word."""
    if len(decision.hits) < 2:
        return decision
    hit = replace(decision.hits[0], weight=1.0)
    heaviest = [(c.adapter, c.path, 1.0) for c in decision.mixture.components if c.adapter == hit.row.adapter]
    return replace(decision, mixture=Mixture(heaviest), hits=(hit,))


class Gate:
    """Decides which memories a query needs. Thread-safe."""

    def __init__(
        self, library: Library, index: Index, embedder: Embedder, uses: UseTracker | None = None
    ) -> None:
        """Take a bank.

        Args:
            library: the bank, which knows `embedder.info`, so that a bank of another embedder was refused.
            index: that `library` was given as `keys`.
            embedder: that made the keys.
            uses: of the bank's memories; stopped when the gate is closed or gone. None: use does not count.
        """
        self.library = library
        self.uses = uses
        self._stop_uses = weakref.finalize(self, uses.stop) if uses is not None else None
        self._index = index
        self._embedder = embedder
        self._spread = spread(embedder)

    def decide(self, queries: Sequence[Query]) -> list[Decision]:
        """A mixture for each query; the texts are embedded in one call.

        A query gets the same mixture alone and among others.

        Raises:
            BankError: the bank cannot be read.
        """
        vectors = query_vectors(self._embedder, queries)
        asked = [_asked(*each, limit=1) for each in zip(queries, vectors, strict=True)]
        with self.library.still() as event:
            nearest = self._index.search(asked)
            return [self._decide(event, *each) for each in zip(queries, asked, nearest, strict=True)]

    def explain(self, query: Query, limit: int | None = None) -> tuple[Decision, tuple[Hit, ...]]:
        """The decision for `query`, and the memories of its namespace that have its tags, the best first.

        Args:
            query: as for `decide`.
            limit: so many memories at most; None: all.

        Raises:
            BankError: as `decide`.
        """
        (vectors,) = query_vectors(self._embedder, [query])
        with self.library.still() as event:
            everyone = max(1, self._index.count(query.namespace, query.tags))
            asked = _asked(query, vectors, everyone if limit is None else limit)
            (nearest,) = self._index.search([asked])
            decision = self._decide(event, query, asked, nearest)
        weights = {hit.id: hit.weight for hit in decision.hits}
        shown = zip(nearest.rows[:limit], nearest.scores, strict=False)
        return decision, tuple(_hit(row, score, weights.get(row.id, 0.0)) for row, score in shown)

    def taking_part(self, namespace: str, tags: Sequence[str] = ()) -> int:
        """How many memories of `namespace` a query with `tags` is compared with.

        Raises:
            BankError: as `decide`.
        """
        with self.library.still():
            return self._index.count(namespace, tags)

    def explicit(self, namespace: str, memories: Sequence[tuple[str, float]]) -> Decision:
        """The mixture that a client asks for: (id, weight) pairs, used as they are but for steps of 1/64.

        Raises:
            MixtureError: a memory twice, or a weight that is no finite number, too large or rounds to 0.
            MemoryNotFoundError: the namespace has no such memory.
            BankError: the bank cannot be read.
        """
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
        with self.library.still() as event:
            hits = [
                _hit(self.library.get(namespace, name), None, n / WEIGHT_STEPS) for name, n in steps.items()
            ]
            hits.sort(key=lambda hit: (-hit.weight, hit.id))
            return self._decision(event, hits, None)

    def used(self, decision: Decision) -> None:
        """Count the memories of a decision as used now; nothing is waited for."""
        if self.uses is not None:
            self.uses.note(hit.row.name for hit in decision.hits)

    def close(self) -> None:
        """Write what was used, and close the bank."""
        if self._stop_uses is not None:
            self._stop_uses()
        self.library.close()

    def text(self, row: Row) -> str:
        """The text of the version that `row` names.

        Raises:
            MemoryNotFoundError: the memory was forgotten since.
            BankError: the bank cannot be read.
        """
        return self.library.version(row).text

    def _decide(self, event: int, query: Query, asked: Asked, nearest: Found) -> Decision:
        """What the best memories, and those that they link to, make of a query."""
        settings, scores = query.settings, nearest.scores
        ids, ages = [row.id for row in nearest.rows], [row.age for row in nearest.rows]
        open_scores = settled(scores, nearest.keys, ages, ids, settings, self._spread)
        tips = None if self.uses is None else self.uses.tips(open_scores, nearest.rows, settings)
        open_scores = tipped(open_scores, tips or ())
        best = winners(open_scores, ids, settings)
        linked = self._linked(asked, [nearest.rows[i] for i in best], set(ids))
        rows = [*nearest.rows, *linked.rows]
        raw, opened = (np.concatenate([some, linked.scores]) for some in (scores, open_scores))
        links = _links(rows, best)
        chosen = select(opened, [row.id for row in rows], settings, links)
        hits = [_hit(rows[i], raw[i], n / WEIGHT_STEPS) for i, n in chosen]
        decision = self._decision(event, hits, float(scores[0]) if len(scores) else None)
        if not query.explain:
            return decision
        weighed = Weighed(raw, opened, best, links, [i for i, _ in chosen])
        told = _explanation(rows, weighed, len(scores), settings)
        return replace(decision, explanation=replace(told, tips=tips))

    def _linked(self, asked: Asked, rows: Sequence[Row], known: set[str]) -> Found:
        """What `rows` link to and takes part, but for the memories that are `known`."""
        ids = dict.fromkeys(link for row in rows for link in row.links if link not in known)
        return self._index.get(list(ids), asked)

    def _decision(self, event: int, hits: Sequence[Hit], best_score: float | None) -> Decision:
        ready = [hit for hit in hits if hit.row.adapter is not None]
        mixture = Mixture(self.library.component(hit.row, hit.weight) for hit in ready)
        return Decision(mixture, tuple(hits), best_score, event)


def query_vectors(embedder: Embedder, queries: Sequence[Query]) -> list[Vectors]:
    """What is compared with the keys, for each query float32 [W, D]; all texts are embedded in one call.

    A query has a vector for each of its passages, of which the best counts; none where the embedder cannot
    read it. In a dialogue each is the mean of two unit vectors, which is shorter than 1 the more they differ:
    scores are then means of two cosines, and what only one of them is about has to be twice as near.
    """
    passages = [embedder.passages(query.text) for query in queries]
    talks = [_talk(embedder, query) if some else [] for query, some in zip(queries, passages, strict=True)]
    vectors = embedder.embed([text for some in (*passages, *talks) for text in some])
    by_text = np.split(vectors, np.cumsum([len(some) for some in (*passages, *talks)]))
    return [
        (own + talk) / np.float32(2) if len(talk) else own
        for own, talk in zip(by_text[: len(queries)], by_text[len(queries) : -1], strict=True)
    ]


def _talk(embedder: Embedder, query: Query) -> list[str]:
    """The dialogue of `query`, if there is one that says more and can be read."""
    if query.dialogue in (None, query.text) or not embedder.passages(query.dialogue):
        return []
    return [query.dialogue]


def _asked(query: Query, passages: Vectors, limit: int) -> Asked:
    """All that can come into the mixture by its own score, and `limit` memories at least."""
    return Asked(query.namespace, passages, max(limit, ENOUGH * query.settings.top_k), query.tags)


def _links(rows: Sequence[Row], best: Sequence[int]) -> Links:
    """Links of the `best`, by position in `rows`; those to others lead nowhere."""
    at = {row.id: n for n, row in enumerate(rows)}
    return {i: [at[link] for link in rows[i].links if link in at] for i in best}


def _explanation(rows: Sequence[Row], weighed: Weighed, found: int, settings: GateSettings) -> Explanation:
    others = runners_up(weighed, found, settings)
    return Explanation(
        tuple((_hit(rows[n], weighed.scores[n], 0.0), why) for n, why in others),
        tuple(
            Followed(rows[i].id, rows[j].id, float(weighed.scores[j]), raised)
            for i, j, raised in explaining.links(weighed, settings)
        ),
    )


def _hit(row: Row, score: float | None, weight: float) -> Hit:
    return Hit(row.id, row.title, None if score is None else float(score), weight, row)
