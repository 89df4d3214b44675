"""A gate without an embedder, for tests of what stands around it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from vllm_mega.errors import MegaError, MemoryNotFoundError
from vllm_mega.gate.gate import Decision, Hit, Query
from vllm_mega.mixture import EMPTY, Mixture


class FakeGate:
    """Finds the memories whose names occur in the text, with equal weights."""

    def __init__(self, names: Sequence[str] = ("bees", "goats", "owls")) -> None:
        self.names = list(names)
        self.version = self.event = 1
        self.calls: list[list[Query]] = []
        self.uses: list[str] = []
        """Names of memories, as they were told to be used."""
        self.error: MegaError | None = None
        self.fails: dict[str, Exception] = {}
        self.pending: set[str] = set()
        """Names of memories that have no adapter."""
        self.forgotten: set[str] = set()
        """Names of memories that are gone as soon as they are decided for."""

    def decide(self, queries: Sequence[Query]) -> list[Decision]:
        self.calls.append(list(queries))
        if self.error is not None:
            raise self.error
        for query in queries:
            if query.text in self.fails:
                raise self.fails[query.text]
        return [self._decision([n for n in self.names if n in q.text], 0.9) for q in queries]

    def explicit(self, namespace: str, memories: Sequence[tuple[str, float]]) -> Decision:
        unknown = [name for name, _ in memories if name not in self.names]
        if unknown:
            raise MemoryNotFoundError(f"namespace {namespace!r} has no memory {unknown[0]!r}")
        return self._of(dict(memories), None)

    def _decision(self, names: list[str], score: float) -> Decision:
        if not names:
            return Decision(mixture=EMPTY, hits=(), best_score=0.1, event=self.event)
        return self._of(dict.fromkeys(names, 1 / len(names)), score)

    def _of(self, weights: dict[str, float], score: float | None) -> Decision:
        hits = tuple(
            Hit(id=n, title=n.title(), score=score, weight=w, row=self._row(n)) for n, w in weights.items()
        )
        ready = {n: w for n, w in weights.items() if n not in self.pending}
        mixture = Mixture((self.digest(n), f"/bank/{n}/{self.version}", w) for n, w in ready.items())
        return Decision(mixture=mixture, hits=hits, best_score=score, event=self.event)

    def used(self, decision: Decision) -> None:
        self.uses.extend(hit.id for hit in decision.hits)

    def text(self, row: Any) -> str:
        if row.id in self.forgotten:
            raise MemoryNotFoundError(f"namespace 'default' has no memory {row.id!r}")
        return f"All about {row.id}."

    def _row(self, name: str) -> Any:
        state, adapter = ("pending", None) if name in self.pending else ("ready", self.digest(name))
        named = f"default/{name}/{self.version}"
        return SimpleNamespace(id=name, adapter=adapter, version=self.version, state=state, text_name=named)

    def digest(self, name: str) -> str:
        return f"{self.names.index(name) + 16 * self.version:064x}"
