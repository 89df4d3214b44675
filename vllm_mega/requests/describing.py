"""What a response says of the memories behind it: its field `mega`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_mega.config import GateSettings
from vllm_mega.gate.gate import Decision, Explanation, Hit
from vllm_mega.requests.reading import form
from vllm_mega.requests.schemas import Plan


def describe(
    plan: Plan, decision: Decision, start: int | None = None, context: str | None = None
) -> dict[str, Any]:
    """The field `mega` of a response: which memories were used, with weights, and why.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        start: the token of the prompt that was answered from which the mixture acted; None: it is empty.
        context: what was `recalled`.
    """
    value: dict[str, Any] = {
        "memories": [_used(plan, hit) for hit in decision.hits],
        "mode": plan.mode,
        "best_score": decision.best_score,
        "namespace": plan.namespace,
        "start": start,
    }
    if context is not None:
        value["recalled"] = context
    if plan.explain:
        value["explain"] = _explained(plan.gate, decision.explanation)
    return value


def _used(plan: Plan, hit: Hit) -> dict[str, Any]:
    return {**_memory(hit), "weight": hit.weight, "score": hit.score, "as": form(plan, hit)}


def _memory(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "title": hit.title, "version": hit.row.version, "state": hit.row.state}


def _explained(gate: GateSettings, explanation: Explanation | None) -> dict[str, Any] | None:
    """None: nothing was compared."""
    if explanation is None:
        return None
    told: dict[str, Any] = {
        **msgspec.structs.asdict(gate),
        "runners_up": [
            {**_memory(hit), "score": hit.score, "why": why} for hit, why in explanation.runners_up
        ],
        "links": [
            {"from": link.source, "to": link.target, "score": link.score, "raised": link.raised}
            for link in explanation.links
        ],
    }
    if explanation.tips is not None:
        told["salience"] = [
            {"id": tip.id, "salience": tip.salience, "added": tip.added} for tip in explanation.tips
        ]
    return told
