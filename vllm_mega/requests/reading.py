"""Which of the chosen memories the model reads as texts, and which act as adapters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from vllm_mega.bank.catalog.records import Row
from vllm_mega.errors import RequestError
from vllm_mega.gate.explaining import Why
from vllm_mega.gate.gate import Decision, Hit, alone
from vllm_mega.mixture import EMPTY
from vllm_mega.requests.schemas import FIELD, Plan

SHARE = 0.25
"""Of a mixture's weight: a memory with less is neither read nor recited. So at most four are."""

READING = frozenset({"text", "both"})
"""Modes in which the model reads every memory; in the others it reads those that have no adapter (yet)."""


def heavy(hits: Sequence[Hit]) -> list[Hit]:
    """Those of `hits` that have a share of the weight that matters, in their order."""
    total = sum(max(hit.weight, 0.0) for hit in hits)
    return [hit for hit in hits if hit.weight >= SHARE * total > 0]


def settled(plan: Plan, found: Decision) -> tuple[Decision, frozenset[str]]:
    """What the mode makes of what was `found`, and the ids of those memories that are to be read.

    Mode `recall` reconstructs one memory, and a text is read only where it matters, unless the client gives
    the memories itself. In mode `text` no adapter acts.

    Raises:
        RequestError: the client gives a weight that no text can have.
    """
    decision = alone(found) if plan.mode == "recall" and plan.asks_gate else found
    read = _read(plan, decision.hits)
    _check_weights(plan, [hit for hit in decision.hits if hit.id in read])
    acts = plan.mode != "text"
    hits = tuple(h for h in decision.hits if h.id in read or (acts and h.row.adapter is not None))
    used = replace(decision, hits=hits, mixture=decision.mixture if acts else EMPTY)
    return _without(used, [hit for hit in found.hits if hit.id not in {h.id for h in hits}]), read


def with_texts(decision: Decision, read: Collection[str], text_of: Callable[[Row], str]) -> Decision:
    """The decision, whose memories `read`, by id, have their texts."""
    hits = (replace(hit, text=text_of(hit.row)) if hit.id in read else hit for hit in decision.hits)
    return replace(decision, hits=tuple(hits))


def texts(decision: Decision) -> list[str]:
    """What the model reads of the memories, heaviest first."""
    return [hit.text for hit in decision.hits if hit.text is not None]


def used(decision: Decision) -> tuple[str, ...]:
    """What the passes of a request have of its memories: adapters by their digests, texts by their names."""
    adapters = (hit.row.adapter for hit in decision.hits)
    read = (hit.row.text_name for hit in decision.hits if hit.text is not None)
    return tuple(dict.fromkeys([*filter(None, adapters), *read]))


def unfit(decision: Decision, error: Exception) -> Exception:
    """VLLM's refusal of a prompt, which tells of the texts in it, if there are some and it is too long."""
    read = [hit.id for hit in decision.hits if hit.text is not None]
    if not read or getattr(error, "parameter", None) != "input_tokens":
        return error
    return RequestError(f"{error} The texts of the memories {', '.join(read)} are a part of it", "messages")


def form(plan: Plan, hit: Hit) -> str:
    """How a memory is used: "adapter", "text", or "both" of them."""
    if hit.text is None:
        return "adapter"
    return "text" if plan.mode == "text" or hit.row.adapter is None else "both"


def _read(plan: Plan, hits: Sequence[Hit]) -> frozenset[str]:
    some = heavy(hits) if plan.asks_gate else hits
    return frozenset(hit.id for hit in some if plan.mode in READING or hit.row.adapter is None)


def _without(decision: Decision, dropped: Sequence[Hit]) -> Decision:
    """The decision, whose explanation names the `dropped` memories first."""
    if decision.explanation is None or not dropped:
        return decision
    others: list[tuple[Hit, Why]] = [(replace(hit, weight=0.0), "mode") for hit in dropped]
    told = replace(decision.explanation, runners_up=(*others, *decision.explanation.runners_up))
    return replace(decision, explanation=told)


def _check_weights(plan: Plan, read: Sequence[Hit]) -> None:
    below = [hit for hit in read if hit.weight < 0]
    if below:
        why = "has no adapter (yet)" if plan.mode not in READING else f"is read in mode {plan.mode}"
        raise RequestError(
            f"the weight of {below[0].id!r} is {below[0].weight:g}, but it {why}, and a text cannot be taken "
            "away: give a positive weight, or leave it out",
            f"{FIELD}.memories",
        )
