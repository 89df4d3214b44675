"""Decisions without a gate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm_mega.gate.gate import Decision, Hit
from vllm_mega.mixture import Mixture


def decision_of(weights: dict[str, float], pending: str = "") -> Decision:
    """A decision for these weights, heaviest first; the adapter of `a` is "aaaa...", `pending` has none."""
    hits = []
    for name, weight in sorted(weights.items(), key=lambda pair: -pair[1]):
        adapter, state = (None, "pending") if name == pending else (name[0] * 64, "ready")
        row: Any = SimpleNamespace(id=name, adapter=adapter, version=3, state=state)
        hits.append(Hit(id=name, title="", score=0.5, weight=weight, row=row))
    ready = [(hit.row.adapter, f"/bank/{hit.id}", hit.weight) for hit in hits if hit.row.adapter]
    mixture = Mixture(ready)
    return Decision(mixture, tuple(hits), 0.5, 1)
