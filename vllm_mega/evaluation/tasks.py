"""Asks a model, in every way that is compared, and counts.

All ways get the same questions with the paper's suffix, greedily. The gate sees the question alone, without
suffix; what it chooses is what `direct` and `irag` use. RAG puts the texts that the same embedder ranks
first into the context of the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vllm_mega.bank.reader import BankSnapshot
from vllm_mega.config import GateSettings
from vllm_mega.evaluation.data import Item
from vllm_mega.evaluation.report import Gate as GateFigures
from vllm_mega.evaluation.report import NullRoute, Recall, Way
from vllm_mega.evaluation.scoring import is_exact, score
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Decision, Gate, Hit, Query
from vllm_mega.prompts import Message, irag_messages, question_prompt, user

ANSWER_TOKENS = 96
RECALL_TOKENS = 256
OFF: Mapping[str, Any] = {"mode": "off"}


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str
    token_ids: tuple[int, ...]


class Model(Protocol):
    """What answers."""

    def ask(
        self, conversations: Sequence[list[Message]], mega: Sequence[Mapping[str, Any]], max_tokens: int
    ) -> list[Reply]:
        """Greedy answers; `mega` is the request field of that name, for each conversation."""
        ...


@dataclass(frozen=True)
class Asked:
    """A question, and what the gate makes of it."""

    item: Item
    question: str
    gold: tuple[str, ...]
    """The answer and its aliases; empty: nothing to answer, only to recall."""
    decision: Decision
    ranked: tuple[Hit, ...]
    """All memories, the best first."""

    @property
    def rank(self) -> int:
        """Of the right memory, from 1."""
        return 1 + [hit.id for hit in self.ranked].index(self.item.id)


Progress = Callable[[str], None]
"""Told what is done next."""


def gate_questions(items: Sequence[Item], gate: Gate, settings: GateSettings) -> list[Asked]:
    """Every question of every memory, as the gate sees it."""
    found = []
    for item in items:
        golds = [(qa.answer, *qa.aliases) for qa in item.qa] or [()]
        for question, gold in zip(item.questions, golds, strict=True):
            decision, ranked = gate.explain(Query(question, settings=settings))
            found.append(Asked(item, question, tuple(gold), decision, ranked))
    return found


def gate_figures(asked: Sequence[Asked]) -> GateFigures:
    """How often the right memory is the best."""
    ranks = np.array([one.rank for one in asked])
    return GateFigures(
        questions=len(asked),
        top1=float((ranks == 1).mean()),
        mrr=float((1 / ranks).mean()),
        closed=float(np.mean([not one.decision.mixture for one in asked])),
    )


def answer_questions(
    asked: Sequence[Asked], snapshot: BankSnapshot, model: Model, progress: Progress
) -> dict[str, Way]:
    """Every way of answering questions that have an answer, by name; RAG finds its texts in `snapshot`."""

    def in_context(one: Asked, count: int) -> list[Message]:
        texts = (snapshot.text(hit.entry).text for hit in one.ranked[:count])
        return irag_messages(one.question, "\n\n".join(texts))

    def plain(one: Asked) -> list[Message]:
        return user(question_prompt(one.question))

    ways: dict[str, Callable[[Asked], tuple[list[Message], Mapping[str, Any]]]] = {
        "base": lambda one: (plain(one), OFF),
        "rag_top1": lambda one: (in_context(one, 1), OFF),
        "rag_top3": lambda one: (in_context(one, 3), OFF),
        "direct": lambda one: (plain(one), chosen(one.decision)),
        "irag": lambda one: (user(one.question), chosen(one.decision, "irag")),
        "top1_adapter": lambda one: (plain(one), only(one.ranked[0].id)),
    }
    found = {}
    for name, way in ways.items():
        progress(f"answering: {name}")
        requests = [way(one) for one in asked]
        replies = model.ask([r[0] for r in requests], [r[1] for r in requests], ANSWER_TOKENS)
        scores = [score(reply.text, one.gold) for one, reply in zip(asked, replies, strict=True)]
        found[name] = Way(
            strict=float(np.mean([s.strict for s in scores])),
            lenient=float(np.mean([s.lenient for s in scores])),
            tokens=float(np.mean([len(reply.token_ids) for reply in replies])),
            answers=[reply.text for reply in replies],
        )
    return found


def recall_memories(asked: Sequence[Asked], model: Model, embedder: Embedder) -> Recall:
    """Reconstruct the memory behind every question."""
    mega = [chosen(one.decision, "recall") for one in asked]
    replies = model.ask([user(one.question) for one in asked], mega, RECALL_TOKENS)
    got = embedder.embed([reply.text for reply in replies])
    want = embedder.embed([one.item.text for one in asked])
    exact = [is_exact(reply.text, one.item.text) for one, reply in zip(asked, replies, strict=True)]
    return Recall(float((got * want).sum(axis=1).mean()), float(np.mean(exact)))


def null_route(prompts: Sequence[str], gate: Gate, settings: GateSettings, model: Model) -> NullRoute:
    """Whether prompts that no memory is about reach the untouched base model."""
    decisions = gate.decide([Query(prompt, settings=settings) for prompt in prompts])
    shut = [p for p, decision in zip(prompts, decisions, strict=True) if not decision.mixture]
    # Twice in the same order: in bfloat16 the shape of a batch decides about the last bits of all in it.
    mine, base = (
        model.ask([user(prompt) for prompt in shut], [mega] * len(shut), ANSWER_TOKENS) for mega in ({}, OFF)
    )
    return NullRoute(
        prompts=len(prompts),
        opened=1 - len(shut) / len(prompts),
        identical=[a.token_ids for a in mine] == [b.token_ids for b in base],
        opened_prompts=[p for p, decision in zip(prompts, decisions, strict=True) if decision.mixture],
    )


def chosen(decision: Decision, mode: str = "adapter") -> Mapping[str, Any]:
    """The request field that asks for the gate's own choice."""
    if not decision.mixture:
        return OFF
    return {"mode": mode, "memories": [{"id": hit.id, "weight": hit.weight} for hit in decision.hits]}


def only(memory_id: str) -> Mapping[str, Any]:
    """The request field that asks for one memory with its whole weight."""
    return {"mode": "adapter", "memories": [{"id": memory_id, "weight": 1.0}]}
