"""General ability, which memories must not touch: questions to choose an answer to, and plain text.

Scored as lm-evaluation-harness does: of the options after "Question: ... Answer:", the one with the largest
log-likelihood counts as the answer. Nothing is generated, so nothing has to be parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vllm_mega.config import GateSettings
from vllm_mega.evaluation.data import Choice, Item
from vllm_mega.evaluation.model import OFF, How, Model, Text, always, chosen, only
from vllm_mega.evaluation.report import General
from vllm_mega.evaluation.tasks import Progress
from vllm_mega.gate.gate import Gate, Query

Ways = dict[str, Callable[[int, str], How]]
"""From the number of a text and the text to the memory that it meets."""


def general_ways(
    items: Sequence[Item], gate: Gate, settings: GateSettings, adapters: Mapping[str, Path]
) -> Ways:
    """Base model, gate, one memory after the other forced on, and the baselines' adapters."""
    return {
        "base": always(OFF),
        "gated": lambda _n, text: chosen(gate.decide([Query(text, settings=settings)])[0]),
        "forced": lambda n, _text: only(items[n % len(items)].id),
        **{name: always(path) for name, path in adapters.items()},
    }


def general_ability(
    choices: Sequence[Choice], paragraphs: Sequence[str], ways: Ways, model: Model, progress: Progress
) -> dict[str, General]:
    """Accuracy and log-likelihood, by way."""
    by_way = {}
    for name, way in ways.items():
        progress(f"general ability: {name}")
        asked = [way(n, choice.question) for n, choice in enumerate(choices)]
        met = [way(n, paragraph) for n, paragraph in enumerate(paragraphs)]
        by_way[name] = General(
            accuracy=_accuracy(choices, asked, model),
            log_likelihood=_log_likelihood(paragraphs, met, model),
            opened=float(np.mean([how is not OFF for how in [*asked, *met]])) if name == "gated" else None,
        )
    return by_way


def _accuracy(choices: Sequence[Choice], how: Sequence[How], model: Model) -> float:
    rows = [
        (choice, way, option) for choice, way in zip(choices, how, strict=True) for option in choice.options
    ]
    scored = iter(
        model.likelihoods(
            [Text(f"Question: {choice.question}\nAnswer:", f" {option}") for choice, _, option in rows],
            [way for _, way, _ in rows],
        )
    )
    right = []
    for choice in choices:
        totals = [next(scored).total for _ in choice.options]
        right.append(choice.options[int(np.argmax(totals))] == choice.answer)
    return float(np.mean(right))


def _log_likelihood(paragraphs: Sequence[str], how: Sequence[How], model: Model) -> float:
    scored = model.likelihoods([Text("", paragraph) for paragraph in paragraphs], how)
    return sum(likelihood.total for likelihood in scored) / sum(likelihood.tokens for likelihood in scored)
