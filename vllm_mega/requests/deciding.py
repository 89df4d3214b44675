"""From requests to mixtures, many at a time: the same code for the server and for offline runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from vllm_mega.config import MegaSettings
from vllm_mega.errors import BankChangedError, BankError, MegaError, MemoryNotFoundError
from vllm_mega.gate.gate import Decision, Gate, Query
from vllm_mega.isolation import isolated
from vllm_mega.mixture import EMPTY
from vllm_mega.requests.conversation import Message, dialogue_text, user_text
from vllm_mega.requests.reading import settled, with_texts
from vllm_mega.requests.schemas import Plan, too_wide

NULL_ROUTE = Decision(mixture=EMPTY, hits=(), best_score=None, event=0)
"""Nothing was compared: memory is off, or there is no text."""

LONG = 4096
"""Characters. What is shorter is cheap to embed, and hardly a model does not hold it."""


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
    decided = [next(answers) if _compares(ask) else _ungated(gate, ask) for ask in asks]
    pairs = zip(asks, decided, strict=True)
    return [a if isinstance(a, Exception) else _complete(gate, ask.plan, a, slots) for ask, a in pairs]


def _compares(ask: Ask) -> bool:
    return ask.plan.asks_gate and bool(ask.text and ask.text.strip())


def _gated(gate: Gate, asks: Sequence[Ask]) -> Sequence[Decision | Exception]:
    def together(some: Sequence[Query]) -> Sequence[Decision | Exception]:
        try:
            return gate.decide(some)
        except BankError as error:  # everybody's
            return [error] * len(some)

    queries = [_query(ask) for ask in asks]
    return isolated(together, queries, Exception) if queries else []


def _query(ask: Ask) -> Query:
    plan = ask.plan
    return Query(ask.text or "", plan.namespace, plan.gate, ask.dialogue, plan.tags, plan.explain)


def _ungated(gate: Gate, ask: Ask) -> Decision | MegaError:
    plan = ask.plan
    if plan.mode == "off" or plan.memories is None:
        return NULL_ROUTE
    try:
        return gate.explicit(plan.namespace, [(memory.id, memory.weight) for memory in plan.memories])
    except MegaError as error:
        return error


def _complete(gate: Gate, plan: Plan, found: Decision, slots: int) -> Decision | MegaError:
    """The decision as its mode has it, with the texts that the model reads; or why there is none."""
    try:
        decision, read = settled(plan, found)
        if len(decision.mixture) > slots:
            return too_wide(len(decision.mixture), slots)
        return with_texts(decision, read, gate.text)
    except MemoryNotFoundError as error:
        if not plan.asks_gate:
            return error
        return BankChangedError(f"a memory was forgotten while it was looked at: ask again ({error})")
    except MegaError as error:
        return error
