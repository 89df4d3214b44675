"""Retrieval in dialogue: does the gate think of the right memories before an answer? No model, no bank.

The metric is that of MADial-Bench (arXiv 2409.15240; its embedding_score_new.py): for each dialogue, at
its first test turn, the memories of that user are ranked, and recall at k is the share of the relevant
ones among the best k; the mean over dialogues. Computed so from the authors' rankings, their baselines come
out as published. Beside it stands the mean over all test turns.

Keys and queries are made by the code that serves: a key is the embedding of the memory's text, a query what
`Ask.about` takes from the messages before the turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from vllm_mega import output
from vllm_mega.bank.identity import memory_id
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.evaluation.dialogue_data import Material, Turn
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Query, query_vectors
from vllm_mega.gate.selection import Scores, best_of, ranking, select
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.schemas import make_plan

AT = (1, 5, 10)
Recall = dict[str, float]
"""By k, as text: how JSON has it."""


class Found(msgspec.Struct, frozen=True):
    """How one way to make the query does."""

    window: int
    dialogue: int
    recall: Recall
    """At the first test turn of each dialogue."""
    all_turns: Recall
    tuned_half: Recall
    """Of `recall`, over the dialogues on which the default was chosen; see `is_held_out`."""
    held_out_half: Recall
    opened: float
    """Share of all test turns at which the gate uses a memory."""
    right: float
    """Share of those at which a relevant one is among those that it uses."""


class Report(msgspec.Struct, frozen=True):
    """How well the gate finds memories in dialogues, by way of making the query."""

    embedder: str
    memories: int
    dialogues: int
    turns: int
    gate: GateSettings
    ways: dict[str, Found]
    published: Mapping[str, Mapping[str, float]]


def measure(material: Material, embedder: Embedder, settings: MegaSettings) -> Report:
    """Rank the memories at every turn, by the query of `settings` and by the last user message alone."""
    alone = msgspec.structs.replace(settings, window=1, dialogue=0)
    ways = {"last user message alone": alone, "as configured": settings}
    keys = embedder.embed([memory.text for memory in material.memories])
    shelves = {
        space: [n for n, memory in enumerate(material.memories) if memory.namespace == space]
        for space in {turn.namespace for turn in material.turns}
    }
    ids = [memory_id(memory) for memory in material.memories]
    by_way = {}
    for name, way in ways.items():
        ranked = []
        for turn, vector in zip(material.turns, _vectors(material.turns, embedder, way), strict=True):
            shelf = shelves[turn.namespace]
            ranked.append(_Ranked(turn, best_of(keys[shelf], vector), [ids[n] for n in shelf]))
        by_way[name] = _found(ranked, way)
    return Report(
        embedder.info.name,
        len(material.memories),
        len({turn.dialogue for turn in material.turns}),
        len(material.turns),
        settings.gate,
        by_way,
        material.published,
    )


def recall_at(relevant: frozenset[str], best: Sequence[str], k: int) -> float:
    """Share of `relevant` among the first `k` of `best`."""
    return len(relevant.intersection(best[:k])) / len(relevant)


def is_held_out(dialogue: int) -> bool:
    """Whether the default of `MegaSettings.dialogue` was chosen without this dialogue of MADial-Bench."""
    return hashlib.sha256(str(dialogue).encode()).digest()[0] % 2 == 1


def markdown(report: Report) -> str:
    """The report as a page."""
    head = [
        "",
        *(f"R@{k}" for k in AT),
        *(f"all turns R@{k}" for k in AT),
        "gate opens, %",
        "right of those, %",
    ]
    rows = [head, ["---"] * len(head)]
    for name, way in report.ways.items():
        shown = f"{name} (window {way.window}, dialogue {way.dialogue})"
        rates = [f"{100 * way.opened:.1f}", f"{100 * way.right:.1f}"]
        rows.append([shown, *_cells(way.recall), *_cells(way.all_turns), *rates])
    rows += [[f"{name} (published)", *_cells(r), *[""] * 5] for name, r in report.published.items()]
    halves = [["", *(f"tuned R@{k}" for k in AT), *(f"held out R@{k}" for k in AT)], ["---"] * 7]
    halves += [[n, *_cells(way.tuned_half), *_cells(way.held_out_half)] for n, way in report.ways.items()]
    parts = [
        "# Retrieval in dialogue",
        f"{report.dialogues} dialogues, {report.turns} turns, {report.memories} memories; embedder "
        f"{report.embedder}; gate: top_k {report.gate.top_k}, threshold {report.gate.threshold:g}, beta "
        f"{report.gate.beta:g}. R@k: share of a turn's relevant memories among the best k of its namespace; "
        "the mean over the first test turns of the dialogues.",
        _table(rows),
    ]
    if report.published:
        parts += ["The defaults were chosen on one half of the dialogues of MADial-Bench:", _table(halves)]
    return "\n\n".join(parts) + "\n"


def write(report: Report, folder: Path) -> None:
    """`dialogue.json` and `dialogue.md` in `folder`, which is made if there is none.

    Raises:
        MegaError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output.write_json(folder / "dialogue.json", report)
    output.write_whole(folder / "dialogue.md", markdown(report).encode())


class _Ranked:
    """The memories of a turn's namespace, compared with it."""

    def __init__(self, turn: Turn, scores: Scores, ids: Sequence[str]) -> None:
        self.turn = turn
        self._scores, self._ids = scores, ids
        self.best = [ids[n] for n in ranking(scores, ids, max(AT))]

    def used(self, settings: GateSettings) -> set[str]:
        return {self._ids[n] for n, _ in select(self._scores, self._ids, settings)}


def _vectors(turns: Sequence[Turn], embedder: Embedder, settings: MegaSettings) -> Sequence[np.ndarray]:
    """A query a turn [W, D]; no text is a query that nothing is near to."""
    plan = make_plan(None, settings)
    asks = [Ask.about(plan, turn.messages, settings) for turn in turns]
    return query_vectors(embedder, [Query(ask.text or "", dialogue=ask.dialogue) for ask in asks])


def _found(ranked: Sequence[_Ranked], way: MegaSettings) -> Found:
    first = [ranking for ranking in ranked if ranking.turn.first]
    used = [(ranking.used(way.gate), ranking.turn.relevant) for ranking in ranked]
    opened = [bool(ids & relevant) for ids, relevant in used if ids]
    return Found(
        way.window,
        way.dialogue,
        _mean(first),
        _mean(ranked),
        _mean([ranking for ranking in first if not is_held_out(ranking.turn.dialogue)]),
        _mean([ranking for ranking in first if is_held_out(ranking.turn.dialogue)]),
        len(opened) / len(ranked),
        sum(opened) / len(opened) if opened else 0.0,
    )


def _mean(ranked: Sequence[_Ranked]) -> Recall:
    return {
        str(k): float(np.mean([recall_at(ranking.turn.relevant, ranking.best, k) for ranking in ranked]))
        if ranked
        else 0.0
        for k in AT
    }


def _cells(recall: Mapping[str, float]) -> list[str]:
    return [f"{recall[str(k)]:.3f}" for k in AT]


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
