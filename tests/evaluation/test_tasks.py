"""Counting, with a real gate over a real bank and a model whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gate.banks import CHESS, FERRY, KILN, add
from vllm_mega.bank.reader import BankReader
from vllm_mega.config import GateSettings
from vllm_mega.evaluation import report, tasks
from vllm_mega.evaluation.data import Item, Question
from vllm_mega.evaluation.tasks import OFF, Reply
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Gate

SETTINGS = GateSettings(top_k=2, threshold=0.3)


class Model:
    """Recites the memory that it is given; with a text in its context, says one word of it."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def ask(self, conversations: Sequence[Any], mega: Sequence[Mapping[str, Any]], max_tokens: int) -> Any:
        found = []
        for (message,), how in zip(conversations, mega, strict=True):
            self.asked.append((message["content"], how))
            memories = how.get("memories") or []
            text = self.texts[memories[0]["id"]] if memories else message["content"].split()[0]
            found.append(Reply(text, tuple(text.encode())))
        return found


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[Any, ...]:
    embedder = FakeEmbedder()
    add(tmp_path, embedder, [KILN, FERRY, CHESS])
    reader = BankReader(tmp_path, embedder=embedder.info)
    words = {memory.id: memory.text.split() for memory in (KILN, FERRY, CHESS)}
    items = [
        Item(memory.id, memory.text, qa=(Question(memory.text, words[memory.id][0]),))
        for memory in (KILN, FERRY, CHESS)
    ]
    model = Model({memory.id: memory.text for memory in (KILN, FERRY, CHESS)})
    gate = Gate(reader, embedder)
    return items, gate, model, reader.snapshot(), embedder


def test_every_way_gets_the_same_question_and_its_own_help(evaluated: Any) -> None:
    items, gate, model, snapshot, _ = evaluated
    asked = tasks.gate_questions(items, gate, SETTINGS)
    ways = tasks.answer_questions(asked, snapshot, model, lambda _: None)
    assert list(ways) == list(report.NAMES)
    by_way = [model.asked[n : n + 3] for n in range(0, len(model.asked), 3)]
    base, rag1, rag3, direct, irag, top1 = by_way
    assert all(how == OFF for _, how in [*base, *rag1, *rag3])
    assert base[0][0].endswith("Answer should be no more than one sentence.")
    assert rag1[0][0].startswith(items[0].text)
    assert all(item.text in rag3[0][0] for item in items)
    assert [how["memories"][0]["id"] for _, how in direct] == [item.id for item in items]
    assert {how["mode"] for _, how in irag} == {"irag"}
    assert [how["memories"] for _, how in top1] == [[{"id": item.id, "weight": 1.0}] for item in items]
    assert (ways["rag_top1"].strict, ways["rag_top1"].lenient) == (1.0, 1.0)


def test_the_gate_is_counted(evaluated: Any) -> None:
    items, gate, *_ = evaluated
    wrong = Item(items[0].id, items[0].text, qa=(Question(items[1].text, "x"),))
    figures = tasks.gate_figures(tasks.gate_questions([*items[1:], wrong], gate, SETTINGS))
    assert (figures.questions, figures.top1, figures.closed) == (3, pytest.approx(2 / 3), 0.0)
    assert 2 / 3 < figures.mrr < 1


def test_recall_and_null_route(evaluated: Any) -> None:
    items, gate, model, _, embedder = evaluated
    recall = tasks.recall_memories(tasks.gate_questions(items, gate, SETTINGS), model, embedder)
    assert (recall.cosine, recall.exact) == (pytest.approx(1.0), 1.0)
    null = tasks.null_route(["zzz qqq", items[0].text], gate, SETTINGS, model)
    assert (null.opened, null.identical, null.opened_prompts) == (0.5, True, [items[0].text])


def test_the_report(evaluated: Any, tmp_path: Path) -> None:
    items, gate, model, snapshot, _ = evaluated
    asked = tasks.gate_questions(items, gate, SETTINGS)
    found = report.Report(
        model="m",
        embedder="e",
        n_memories=3,
        ways=tasks.answer_questions(asked, snapshot, model, lambda _: None),
        gate=tasks.gate_figures(asked),
        recall=report.Recall(0.98, 0.9),
        null_route=report.NullRoute(4, 0.25, True, ["Why?"]),
        cost=report.Cost(4.0, 500_000, 0.002),
    )
    report.write(found, [{"question": one.question} for one in asked], tmp_path / "report")
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(figures["qa"]) == set(report.NAMES)
    assert figures["qa"]["rag_top1"] == figures["qa_lenient"]["rag_top1"] == 1.0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "opened for 25.0 % of 4 unrelated prompts" in text
    assert "- opened: Why?" in text
    lines = (tmp_path / "report" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["question"] for line in lines] == [item.text for item in items]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "answers.jsonl",
        "report.json",
        "report.md",
    ]
