"""Search: what the gate would find, and nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from vllm_mega.config import DEFAULT_NAMESPACE, GateSettings
from vllm_mega.gate.gate import Decision, Hit, Query


class Explains(Protocol):
    """A gate (`vllm_mega.Gate`)."""

    def explain(self, query: Query, limit: int | None = None) -> tuple[Decision, Sequence[Hit]]:
        """The decision, and the memories that took part, the best first, at most `limit`."""
        ...


class Found(msgspec.Struct, frozen=True):
    """A memory that a search has found."""

    id: str
    title: str
    score: float | None
    """Cosine with what was asked."""
    weight: float
    """That it would have in a mixture; 0: it would not be used."""


def search(
    gate: Explains,
    text: str,
    namespace: str = DEFAULT_NAMESPACE,
    *,
    tags: tuple[str, ...] = (),
    limit: int = 10,
    settings: GateSettings | None = None,
) -> list[Found]:
    """The memories of a namespace that are nearest to `text`, the best first.

    Args:
        gate: of the bank.
        text: a question, or anything.
        namespace: whose memories.
        tags: only memories that have all of these.
        limit: how many at most.
        settings: threshold, top-k and the like, for the weights; None: the defaults.

    Raises:
        BankError: the bank cannot be read.
    """
    _, hits = gate.explain(Query(text, namespace, settings or GateSettings(), tags=tags), limit)
    return [Found(hit.id, hit.title, hit.score, hit.weight) for hit in hits]
