"""Counting, with a real gate over a real bank and a model whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.fakes import SETTINGS, Reciter, items, subject
from vllm_mega.errors import MegaError
from vllm_mega.evaluation import tasks
from vllm_mega.evaluation.data import Item, Question
from vllm_mega.evaluation.model import OFF
from vllm_mega.evaluation.study import Subject


@pytest.fixture
def who(tmp_path: Path) -> Subject:
    return subject(tmp_path)


def test_every_way_gets_the_same_question_and_its_own_help(who: Subject, tmp_path: Path) -> None:
    model: Any = who.model
    some = items()
    asked = tasks.gate_questions(some, who.gate, SETTINGS)
    ways = tasks.question_ways(who.library, {"joint_lora": tmp_path})
    answered = tasks.answer_questions(asked, ways, model, None, lambda _: None)
    assert list(answered) == [
        "base", "rag_top1", "rag_top3", "direct", "irag", "text", "both", "top1_adapter", "joint_lora",
    ]  # fmt: skip
    base, rag1, rag3, direct, irag, text, both, top1, joint = [
        model.asked[n : n + 3] for n in range(0, len(model.asked), 3)
    ]
    assert all(how == OFF for _, how in [*base, *rag1, *rag3])
    assert base[0][0].endswith("Answer should be no more than one sentence.")
    assert rag1[0][0].startswith(some[0].text)
    assert all(item.text in rag3[0][0] for item in some)
    assert [how["memories"][0]["id"] for _, how in direct] == [item.id for item in some]
    assert {how["mode"] for _, how in irag} == {"irag"}
    for mode, way in (("text", text), ("both", both)):
        assert way == [(item.text, {"mode": mode}) for item in some], "what is read, the engine's gate says"
    assert [how["memories"] for _, how in top1] == [[{"id": item.id, "weight": 1.0}] for item in some]
    assert joint == [(base[n][0], tmp_path) for n in range(3)]
    assert (answered["rag_top1"].strict, answered["rag_top1"].lenient) == (1.0, 1.0)
    assert answered["joint_lora"].lenient == 0.0
    assert answered["base"].judge is None


def test_a_judge_is_asked_about_every_answer(who: Subject) -> None:
    asked = tasks.gate_questions(items(), who.gate, SETTINGS)
    ways = {"base": tasks.question_ways(who.library, {})["base"]}
    seen = []

    def judge(question: str, golds: Any, reply: str) -> bool:
        seen.append((question, golds, reply))
        return question == asked[0].question

    found = tasks.answer_questions(asked, ways, who.model, judge, lambda _: None)
    assert found["base"].judge == pytest.approx(1 / 3)
    assert seen[1] == (asked[1].question, ("The",), "The")
    with pytest.raises(MegaError, match="must say True or False, and said 'yes'"):
        tasks.answer_questions(asked, ways, who.model, lambda *_: "yes", lambda _: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(MegaError, match=r"the judge failed on .*ZeroDivisionError"):
        tasks.answer_questions(asked, ways, who.model, lambda *_: bool(1 / 0), lambda _: None)


def test_the_gate_is_counted(who: Subject) -> None:
    first, *others = items()
    wrong = Item(first.id, first.text, qa=(Question(others[0].text, "x"),))
    figures = tasks.gate_figures(tasks.gate_questions([*others, wrong], who.gate, SETTINGS))
    assert (figures.questions, figures.top1, figures.closed) == (3, pytest.approx(2 / 3), 0.0)
    assert 2 / 3 < figures.mrr < 1
    assert figures.right_scores[:2] == pytest.approx([1.0, 1.0])
    assert figures.wrong_scores[2] == pytest.approx(1.0)
    assert figures.right_scores[2] < 1


def test_recall_in_every_way(who: Subject, tmp_path: Path) -> None:
    asked = tasks.gate_questions(items(), who.gate, SETTINGS)
    adapter = tmp_path / "adapter"
    model = Reciter(who.model.texts, {adapter: items()[0].text})  # type: ignore[attr-defined]
    ways = tasks.recall_ways(who.library, {"joint_lora": adapter})
    found = tasks.recall_memories(asked, ways, model, who.embedder, lambda _: None)
    assert (found["direct"].cosine, found["direct"].exact) == (pytest.approx(1.0), 1.0)
    assert (found["top1_adapter"].cosine, found["base"].exact) == (pytest.approx(1.0), 0.0)
    assert found["joint_lora"].exact == pytest.approx(1 / 3)
    texts = {how if isinstance(how, Path) else how["mode"]: text for text, how in model.asked}
    assert "Reconstruct the entire story" in texts["off"]
    assert texts[adapter].startswith("Tell me about ")
    assert "Reconstruct" not in texts["recall"]  # the engine puts that question itself


def test_null_route(who: Subject) -> None:
    known = items()[0].text
    null = tasks.null_route(["zzz qqq", known], who.gate, SETTINGS, who.model)
    assert (null.opened, null.identical, null.opened_prompts) == (0.5, True, [known])
    assert null.scores[0] < 0.3 < null.scores[1]


def test_latency_is_of_single_requests(who: Subject) -> None:
    asked = tasks.gate_questions(items(), who.gate, SETTINGS)
    found = tasks.latency(asked, tasks.question_ways(who.library, {}), who.model)
    assert set(found) == {"base", "rag_top1", "direct", "irag", "text", "both"}
    assert all(ms >= 0 for ms in found.values())
    assert who.model.calls == len(who.model.asked) == 18  # type: ignore[attr-defined]
