"""From requests to mixtures, many at a time: the same code for the server and for offline runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from vllm_mega.config import MegaSettings
from vllm_mega.errors import BankError, MegaError
from vllm_mega.gate.gate import Decision, Gate, Query, alone
from vllm_mega.isolation import isolated
from vllm_mega.mixture import EMPTY, Mixture
from vllm_mega.serving.conversation import Message, dialogue_text, user_text
from vllm_mega.serving.schemas import Plan, too_wide

NULL_ROUTE = Decision(mixture=EMPTY, hits=(), best_score=None, generation=0)
"""Nothing was compared: memory is off, or there is no text."""

RECALL_SHARE = 0.25
"""Of a mixture's weight: a memory with less is not recalled on its own. So at most four are."""

LONG = 4096
"""Characters. What is shorter is cheap to embed, and hardly a model does not hold it."""

READING_SHARE = 0.25
"""Of the mixture's weights, in the second pass of mode `irag`: the model reads the recalled text, and the
adapters only lean towards answering with one sentence of it. Measured in docs/training-log.md."""


@dataclass(frozen=True)
class Ask:
    """What one request wants to know from the gate."""

    plan: Plan
    text: str | None
    """What the gate compares; None or blank: nothing."""
    dialogue: str | None = None
    """The conversation around it, which the gate compares as well; None: there is none."""

    @classmethod
    def about(cls, plan: Plan, messages: Sequence[Message], settings: MegaSettings) -> Self:
        """The last user messages, and what the conversation is about; see `MegaSettings`."""
        text = user_text(messages, settings.window)
        return cls(plan, text, dialogue_text(messages, settings.dialogue))

    @property
    def is_long(self) -> bool:
        """Whether it costs much to compare: then the model must be known to hold it, and nobody waits."""
        return len(self.text or "") + len(self.dialogue or "") > LONG


def decide(gate: Gate, asks: Sequence[Ask], slots: int) -> list[Decision | Exception]:
    """Each request's mixture, or why it gets none; the texts are embedded in one call.

    A text that the embedder fails at is the trouble of its own request; a bank that cannot be read is that of
    all who compare.

    Args:
        gate: of the bank.
        asks: any number of requests.
        slots: how many adapters a mixture may have.
    """
    gated = [ask for ask in asks if _compares(ask)]
    answers = iter(_gated(gate, gated))
    found = [next(answers) if _compares(ask) else _ungated(gate, ask) for ask in asks]
    return [_checked(_for_mode(ask.plan, answer), slots) for ask, answer in zip(asks, found, strict=True)]


def recitals(decision: Decision) -> list[Mixture]:
    """What the first pass of mode `irag` recites, each in a request of its own, best first.

    A blend of adapters recites none of its memories word for word, so each one that matters is recited
    alone, with the weight that it was trained at. A mixture of one memory is taken as it is; so is one
    in which none matters enough.
    """
    total = sum(max(hit.weight, 0.0) for hit in decision.hits)
    components = {component.adapter: component for component in decision.mixture.components}
    if len(components) < 2:
        return [decision.mixture]
    heavy = [hit.entry.adapter for hit in decision.hits if hit.weight >= RECALL_SHARE * total > 0]
    alone = [components[adapter] for adapter in dict.fromkeys(heavy) if adapter in components]
    return [Mixture([(c.adapter, c.path, 1.0)]) for c in alone] or [decision.mixture]


def reading(decision: Decision) -> Mixture:
    """What answers in the second pass of mode `irag`, where the recalled text stands in the context."""
    return decision.mixture.scaled(READING_SHARE)


def describe(
    plan: Plan, decision: Decision, start: int | None = None, recalled: str | None = None
) -> dict[str, Any]:
    """The field `mega` of a response: which memories were used, with weights, and why.

    Args:
        plan: of the request.
        decision: of the gate, or of the client.
        start: the token of the prompt that was answered from which the mixture acted; None: it is empty.
        recalled: what mode `irag` has put into the context.
    """
    value: dict[str, Any] = {
        "memories": [
            {"id": hit.id, "title": hit.title, "weight": hit.weight, "score": hit.score}
            for hit in decision.hits
        ],
        "mode": plan.mode,
        "best_score": decision.best_score,
        "namespace": plan.namespace,
        "start": start,
    }
    if recalled is not None:
        value["recalled"] = recalled
    return value


def _compares(ask: Ask) -> bool:
    return ask.plan.asks_gate and bool(ask.text and ask.text.strip())


def _gated(gate: Gate, asks: Sequence[Ask]) -> Sequence[Decision | Exception]:
    def together(some: Sequence[Query]) -> Sequence[Decision | Exception]:
        try:
            return gate.decide(some)
        except BankError as error:  # everybody's
            return [error] * len(some)

    queries = [
        Query(ask.text or "", ask.plan.namespace, ask.plan.gate, ask.dialogue, ask.plan.tags) for ask in asks
    ]
    return isolated(together, queries, Exception) if queries else []


def _ungated(gate: Gate, ask: Ask) -> Decision | MegaError:
    plan = ask.plan
    if plan.mode == "off" or plan.memories is None:
        return NULL_ROUTE
    try:
        return gate.explicit(plan.namespace, [(memory.id, memory.weight) for memory in plan.memories])
    except MegaError as error:
        return error


def _for_mode(plan: Plan, answer: Decision | Exception) -> Decision | Exception:
    """Mode `recall` reconstructs one memory, unless the client gives the mixture itself."""
    if isinstance(answer, Exception) or plan.mode != "recall" or not plan.asks_gate:
        return answer
    return alone(answer)


def _checked(answer: Decision | Exception, slots: int) -> Decision | Exception:
    if isinstance(answer, Exception) or len(answer.mixture) <= slots:
        return answer
    return too_wide(len(answer.mixture), slots)
