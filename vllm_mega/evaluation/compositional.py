"""Questions that need two memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.evaluation import data, report
from vllm_mega.evaluation.model import OFF, How, Model, always, chosen
from vllm_mega.evaluation.tasks import ANSWER_TOKENS, Progress, Request, context, counted
from vllm_mega.gate.gate import Decision, Gate, Hit, Query
from vllm_mega.prompts import irag_messages, question_prompt, user

TOP_K = 2
BETA = 5.0
"""A fifth of what serves one memory: two that are equally near must both get through (paper: a tenth)."""


@dataclass(frozen=True)
class Both:
    """A question, and what the gate makes of it."""

    question: data.Compositional
    decision: Decision
    ranked: tuple[Hit, ...]


def for_two(settings: GateSettings) -> GateSettings:
    """`settings` as questions that need two memories want them: the one place that says so."""
    return msgspec.structs.replace(settings, top_k=max(TOP_K, settings.top_k), beta=min(BETA, settings.beta))


def compositional(
    questions: Sequence[data.Compositional],
    library: Library,
    gate: Gate,
    settings: GateSettings,
    model: Model,
    adapters: Mapping[str, Path],
    progress: Progress,
) -> report.Compositional:
    """Ask every question in every way; RAG gets the two texts that the embedder ranks first."""
    asked = [
        Both(question, *gate.explain(Query(question.question, settings=for_two(settings))))
        for question in questions
    ]

    def plain(how: Callable[[Both], How]) -> Callable[[Both], Request]:
        return lambda both: (user(question_prompt(both.question.question)), how(both))

    ways: dict[str, Callable[[Both], Request]] = {
        "base": plain(always(OFF)),
        "rag_top2": lambda both: (
            irag_messages(both.question.question, context(library, both.ranked[:TOP_K])),
            OFF,
        ),
        "direct": plain(lambda both: chosen(both.decision)),
        "irag": lambda both: (user(both.question.question), chosen(both.decision, "irag")),
        **{name: plain(always(path)) for name, path in adapters.items()},
    }
    by_way = {}
    for name, way in ways.items():
        progress(f"questions over two memories: {name}")
        requests = [way(both) for both in asked]
        replies = model.ask([r[0] for r in requests], [r[1] for r in requests], ANSWER_TOKENS)
        by_way[name] = counted(replies, [both.question.golds for both in asked])
    in_mixture = [set(b.question.memory_ids) <= {hit.id for hit in b.decision.hits} for b in asked]
    return report.Compositional(len(asked), float(np.mean(in_mixture)), by_way)
