"""Asks a model, in every way that is compared, and counts.

All ways get the same questions with the paper's suffix, greedily. The gate sees the question alone, without
suffix; what it chooses is what `direct` and `irag` use, and what `text` and `both` read. RAG puts the texts
that the same embedder ranks first into the context of the base model. A baseline adapter gets the question
as the base model does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.evaluation import report
from vllm_mega.evaluation.data import Item
from vllm_mega.evaluation.judge import Judge, judged
from vllm_mega.evaluation.model import OFF, How, Model, Reply, always, chosen, gated, only
from vllm_mega.evaluation.scoring import Gold, is_exact, score
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Decision, Gate, Hit, Query, alone
from vllm_mega.prompts import Message, about_prompt, irag_messages, question_prompt, recall_prompt, user
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import subject

ANSWER_TOKENS = 96
NULL_TOKENS = 32
"""Are enough to see whether an answer is the base model's."""
RECALL_TOKENS = 256
LATENCY_QUESTIONS = 5
TIMED = ("base", "rag_top1", "direct", "irag", "text", "both", "joint_lora")


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
Request = tuple[list[Message], How]
Ways = dict[str, Callable[[Asked], Request]]


def gate_questions(items: Sequence[Item], gate: Gate, settings: GateSettings) -> list[Asked]:
    """Every question of every memory, as the gate sees it."""
    asked = []
    for item in items:
        golds = [(qa.answer, *qa.aliases) for qa in item.qa] or [()]
        for question, gold in zip(item.questions, golds, strict=True):
            decision, ranked = gate.explain(Query(question, settings=settings))
            asked.append(Asked(item, question, tuple(gold), decision, ranked))
    return asked


def gate_figures(asked: Sequence[Asked]) -> report.Gate:
    """How often the right memory is the best."""
    ranks = np.array([question.rank for question in asked])
    wrong = [
        [hit.score or 0.0 for hit in question.ranked if hit.id != question.item.id] for question in asked
    ]
    return report.Gate(
        questions=len(asked),
        top1=float((ranks == 1).mean()),
        mrr=float((1 / ranks).mean()),
        closed=float(np.mean([not question.decision.hits for question in asked])),
        right_scores=[question.ranked[question.rank - 1].score or 0.0 for question in asked],
        wrong_scores=[max(scores) for scores in wrong if scores],
    )


def question_ways(library: Library, adapters: Mapping[str, Path]) -> Ways:
    """Every way to ask a question; RAG finds its texts in `library`, `adapters` are the baselines'."""

    def in_context(count: int) -> Callable[[Asked], Request]:
        return lambda question: (
            irag_messages(question.question, context(library, question.ranked[:count])),
            OFF,
        )

    def plain(how: Callable[[Asked], How]) -> Callable[[Asked], Request]:
        return lambda question: (user(question_prompt(question.question)), how(question))

    return {
        "base": plain(always(OFF)),
        "rag_top1": in_context(1),
        "rag_top3": in_context(3),
        "direct": plain(lambda question: chosen(question.decision)),
        "irag": lambda question: (user(question.question), chosen(question.decision, "irag")),
        "text": lambda question: (user(question.question), gated("text")),
        "both": lambda question: (user(question.question), gated("both")),
        "top1_adapter": plain(lambda question: only(question.ranked[0].id)),
        **{name: plain(always(path)) for name, path in adapters.items()},
    }


def context(library: Library, hits: Sequence[Hit]) -> str:
    """The texts of some memories, as RAG puts them before a question."""
    return "\n\n".join(library.version(hit.row).text for hit in hits)


def answer_questions(
    asked: Sequence[Asked], ways: Ways, model: Model, judge: Judge | None, progress: Progress
) -> dict[str, report.Way]:
    """Every question that has an answer, asked in every way."""
    by_way = {}
    for name, way in ways.items():
        progress(f"answering: {name}")
        requests = [way(question) for question in asked]
        replies = model.ask([r[0] for r in requests], [r[1] for r in requests], ANSWER_TOKENS)
        verdicts = None
        if judge is not None:
            pairs = zip(asked, replies, strict=True)
            verdicts = [
                judged(judge, question.question, question.gold, reply.text) for question, reply in pairs
            ]
        by_way[name] = counted(replies, [question.gold for question in asked], verdicts)
    return by_way


def counted(
    replies: Sequence[Reply], golds: Sequence[Sequence[Gold]], verdicts: Sequence[bool] | None = None
) -> report.Way:
    """The rates of one way of answering; `verdicts` are the judge's."""
    scores = [score(reply.text, gold) for reply, gold in zip(replies, golds, strict=True)]
    return report.Way(
        strict=float(np.mean([s.strict for s in scores])),
        lenient=float(np.mean([s.lenient for s in scores])),
        tokens=float(np.mean([len(reply.token_ids) for reply in replies])),
        answers=[reply.text for reply in replies],
        judge=None if verdicts is None else float(np.mean(verdicts)),
    )


def recall_ways(library: Library, adapters: Mapping[str, Path]) -> Ways:
    """Every way to have a memory reconstructed; in mode `recall` the engine puts the question itself."""

    def named(path: Path) -> Callable[[Asked], Request]:
        # One adapter for all memories must be told which.
        return lambda question: (user(about_prompt(subject(question.item.memory, Recipe()))), path)

    def in_context(question: Asked) -> Request:
        return user(f"{context(library, question.ranked[:1])}\n\n{recall_prompt(question.question)}"), OFF

    return {
        "base": lambda question: (user(recall_prompt(question.question)), OFF),
        "rag_top1": in_context,
        report.OURS: lambda question: (user(question.question), chosen(alone(question.decision), "recall")),
        "top1_adapter": lambda question: (user(question.question), only(question.ranked[0].id, "recall")),
        **{name: named(path) for name, path in adapters.items()},
    }


def recall_memories(
    asked: Sequence[Asked], ways: Ways, model: Model, embedder: Embedder, progress: Progress
) -> dict[str, report.Recall]:
    """Reconstruct the memory behind every question, in every way."""
    by_way = {}
    for name, way in ways.items():
        progress(f"recalling: {name}")
        requests = [way(question) for question in asked]
        replies = model.ask([r[0] for r in requests], [r[1] for r in requests], RECALL_TOKENS)
        by_way[name] = recalled(replies, [question.item.text for question in asked], embedder)
    return by_way


def recalled(replies: Sequence[Reply], texts: Sequence[str], embedder: Embedder) -> report.Recall:
    """How near the replies are to the texts that they should be."""
    got, want = embedder.embed([reply.text for reply in replies]), embedder.embed(texts)
    exact = [is_exact(reply.text, text) for reply, text in zip(replies, texts, strict=True)]
    return report.Recall(float((got * want).sum(axis=1).mean()), float(np.mean(exact)))


def null_route(prompts: Sequence[str], gate: Gate, settings: GateSettings, model: Model) -> report.NullRoute:
    """Whether prompts that no memory is about reach the untouched base model."""
    decisions = gate.decide([Query(prompt, settings=settings) for prompt in prompts])
    shut = [p for p, decision in zip(prompts, decisions, strict=True) if not decision.hits]
    # One at a time: in bfloat16 the shape of a batch decides about the last bits of all in it, and when
    # requests join a batch is a matter of time.
    mine, base = (
        [model.ask([user(prompt)], [mega], NULL_TOKENS)[0] for prompt in shut] for mega in ({}, OFF)
    )
    return report.NullRoute(
        prompts=len(prompts),
        opened=1 - len(shut) / len(prompts),
        identical=[a.token_ids for a in mine] == [b.token_ids for b in base],
        opened_prompts=[p for p, decision in zip(prompts, decisions, strict=True) if decision.hits],
        scores=[decision.best_score or 0.0 for decision in decisions],
    )


def latency(asked: Sequence[Asked], ways: Ways, model: Model) -> dict[str, float]:
    """Milliseconds from question to whole answer, one request at a time: the median of a handful, by way."""
    by_way = {}
    for name in (name for name in TIMED if name in ways):
        seconds = []
        for messages, how in map(ways[name], asked[:LATENCY_QUESTIONS]):
            started = time.perf_counter()
            model.ask([messages], [how], ANSWER_TOKENS)
            seconds.append(time.perf_counter() - started)
        by_way[name] = round(1000 * statistics.median(seconds), 1)
    return by_way
