"""From requests to mixtures, many at a time: the same code for the server and for offline runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mega.errors import MegaError, MixtureError
from vllm_mega.gate.gate import Decision, Gate, Query
from vllm_mega.mixture import EMPTY
from vllm_mega.serving.schemas import FIELD, Plan

NULL_ROUTE = Decision(mixture=EMPTY, hits=(), best_score=None, generation=0)
"""Nothing was compared: memory is off, or there is no text."""


@dataclass(frozen=True)
class Ask:
    """What one request wants to know from the gate."""

    plan: Plan
    text: str | None
    """What the gate compares; None or blank: nothing."""


def decide(gate: Gate, asks: Sequence[Ask], slots: int) -> list[Decision | MegaError]:
    """Each request's mixture, or why it gets none; the texts are embedded in one call.

    Args:
        gate: of the bank.
        asks: any number of requests.
        slots: how many adapters a mixture may have.
    """
    gated = [ask for ask in asks if _compares(ask)]
    answers = iter(_gated(gate, gated))
    found = [next(answers) if _compares(ask) else _ungated(gate, ask) for ask in asks]
    return [_checked(answer, slots) for answer in found]


def describe(plan: Plan, decision: Decision, recalled: str | None = None) -> dict[str, Any]:
    """The field `mega` of a response: which memories were used, with weights, and why."""
    value: dict[str, Any] = {
        "memories": [
            {"id": hit.id, "title": hit.title, "weight": hit.weight, "score": hit.score}
            for hit in decision.hits
        ],
        "mode": plan.mode,
        "best_score": decision.best_score,
        "namespace": plan.namespace,
    }
    if recalled is not None:
        value["recalled"] = recalled
    return value


def _compares(ask: Ask) -> bool:
    return ask.plan.asks_gate and bool(ask.text and ask.text.strip())


def _gated(gate: Gate, asks: Sequence[Ask]) -> Sequence[Decision | MegaError]:
    if not asks:
        return []
    try:
        return gate.decide([Query(ask.text or "", ask.plan.namespace, ask.plan.gate) for ask in asks])
    except MegaError as error:
        return [error] * len(asks)


def _ungated(gate: Gate, ask: Ask) -> Decision | MegaError:
    plan = ask.plan
    if plan.mode == "off" or plan.memories is None:
        return NULL_ROUTE
    try:
        return gate.explicit(plan.namespace, [(memory.id, memory.weight) for memory in plan.memories])
    except MegaError as error:
        return error


def _checked(answer: Decision | MegaError, slots: int) -> Decision | MegaError:
    if isinstance(answer, MegaError) or len(answer.mixture) <= slots:
        return answer
    return MixtureError(
        f"the mixture has {len(answer.mixture)} memories, but the engine has {slots} slots: "
        f"ask for fewer ({FIELD}.top_k or {FIELD}.memories), or start the server with a larger --max-loras",
        f"{FIELD}.memories",
    )
