"""Decisions without a gate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm_mega.gate.gate import Decision, Hit
from vllm_mega.mixture import Mixture


def decision_of(weights: dict[str, float]) -> Decision:
    """A decision for these weights, heaviest first; the adapter of `a` is "aaaa..."."""
    hits = []
    for name, weight in sorted(weights.items(), key=lambda pair: -pair[1]):
        row: Any = SimpleNamespace(adapter=name[0] * 64)
        hits.append(Hit(id=name, title="", score=0.5, weight=weight, row=row))
    mixture = Mixture((hit.row.adapter, f"/bank/{hit.id}", hit.weight) for hit in hits)
    return Decision(mixture, tuple(hits), 0.5, 1)
