"""The whole evaluation, in order: what is asked, of whom, and what it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.evaluation import data, report, tasks
from vllm_mega.evaluation.compositional import compositional
from vllm_mega.evaluation.forgetting import forgetting
from vllm_mega.evaluation.general import general_ability, general_ways
from vllm_mega.evaluation.judge import Judge
from vllm_mega.evaluation.model import Baselines, Model
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Gate


@dataclass(frozen=True)
class Material:
    """What is asked: memories with their questions, and prompts that are about none."""

    items: Sequence[data.Item]
    choices: Sequence[data.Choice]
    paragraphs: Sequence[str]
    unrelated: Sequence[str] = ()
    compositional: Sequence[data.Compositional] = ()


@dataclass(frozen=True)
class Subject:
    """Who is asked: bank, gate and model, and the baselines beside them."""

    library: Library
    gate: Gate
    settings: GateSettings
    embedder: Embedder
    model: Model
    base_bytes: int
    """Of the base model's weights."""
    baselines: Baselines = field(default_factory=Baselines)
    environment: dict[str, Any] = field(default_factory=dict)


def measure(
    material: Material, subject: Subject, judge: Judge | None, progress: tasks.Progress
) -> tuple[report.Report, list[dict[str, Any]]]:
    """Every figure of the evaluation; also what stands beside every answer in answers.jsonl."""
    items, gate, settings, model = material.items, subject.gate, subject.settings, subject.model
    library, adapters = subject.library, subject.baselines.adapters
    progress("asking the gate")
    asked = tasks.gate_questions(items, gate, settings)
    answerable = [question for question in asked if question.gold]
    ways = tasks.question_ways(library, adapters)
    answered = tasks.answer_questions(answerable, ways, model, judge, progress)
    recall_ways = tasks.recall_ways(library, adapters)
    recall = tasks.recall_memories(asked, recall_ways, model, subject.embedder, progress)
    progress("unrelated prompts")
    null = tasks.null_route(material.unrelated, gate, settings, model) if material.unrelated else None
    both = _compositional(material, subject, progress)
    progress("forgetting")
    checkpoints = subject.baselines.checkpoints
    curve = forgetting(items, library, subject.embedder, settings, model, checkpoints)
    some_ways = general_ways(items, gate, settings, adapters)
    general = general_ability(material.choices, material.paragraphs, some_ways, model, progress)
    progress("latency")
    latency = tasks.latency(answerable, ways, model)
    whole = report.Report(
        model=library.settings.base.name,
        embedder=subject.embedder.info.name,
        n_memories=len(items),
        ways=answered,
        gate=tasks.gate_figures(answerable),
        recall=recall,
        null_route=null,
        compositional=both,
        forgetting=curve,
        general=general,
        cost=_cost(items, subject, latency),
        settings={"gate": msgspec.to_builtins(settings)},
        environment=subject.environment,
    )
    return whole, [_beside(question) for question in answerable]


def _compositional(
    material: Material, subject: Subject, progress: tasks.Progress
) -> report.Compositional | None:
    """Questions over two memories; None: there are none."""
    if not material.compositional:
        return None
    return compositional(
        material.compositional,
        subject.library,
        subject.gate,
        subject.settings,
        subject.model,
        subject.baselines.adapters,
        progress,
    )


def _cost(items: Sequence[data.Item], subject: Subject, latency: dict[str, float]) -> report.Cost:
    """Of the memories that were asked about; those that someone else trained have no seconds."""
    wanted = {item.id for item in items}
    versions = [subject.library.version(row) for row in subject.library.rows.values() if row.id in wanted]
    size = sum(version.adapter_bytes for version in versions) / len(versions)
    seconds = [float(version.training["seconds"]) for version in versions if "seconds" in version.training]
    return report.Cost(
        seconds_per_memory=round(sum(seconds) / max(1, len(seconds)), 2),
        bytes_per_memory=size,
        share_of_base=size / subject.base_bytes,
        latency_ms=latency,
        baselines=dict(subject.baselines.costs),
    )


def _beside(question: tasks.Asked) -> dict[str, Any]:
    return {
        "memory": question.item.id,
        "question": question.question,
        "answer": question.gold[0],
        "rank": question.rank,
        "best_score": question.decision.best_score,
    }
