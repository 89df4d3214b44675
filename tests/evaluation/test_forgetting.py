"""The forgetting curve: which gate is asked, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.fakes import FORGOT, SETTINGS, items, subject
from vllm_mega.config import GateSettings
from vllm_mega.evaluation.forgetting import among, counts, forgetting


@pytest.mark.parametrize(
    ("memories", "expected"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (12, [0, 1, 5, 10, 11]), (51, [0, 1, 5, 10, 25, 50])],
)
def test_where_the_curve_has_points(memories: int, expected: list[int]) -> None:
    assert counts(memories) == expected


def test_a_gate_that_knows_only_some() -> None:
    keys = np.eye(3, dtype=np.float32)
    query = np.array([0.6, 0.8, 0.0], np.float32)
    settings = GateSettings(top_k=1, threshold=0.5)
    assert among(keys[:1], ["first"], query, settings) == [("first", 1.0)]
    assert among(keys[:2], ["first", "second"], query, settings) == [("second", 1.0)]
    assert among(keys[2:], ["third"], query, settings) == []


def test_the_curve(tmp_path: Path) -> None:
    some = items()
    alone, later = tmp_path / "alone", tmp_path / "later"
    who = subject(tmp_path / "bank", {alone: some[0].text})
    curve = forgetting(some, who.library, who.embedder, SETTINGS, who.model, {0: alone, 2: later})
    assert [one.after for one in curve] == [0, 1, 2]
    assert [one.recall_cosine for one in curve] == pytest.approx([1.0] * 3)
    assert [(one.exact, one.right) for one in curve] == [(1.0, 1.0)] * 3
    assert (curve[0].sequential_lora_cosine, curve[0].sequential_lora_exact) == (pytest.approx(1.0), 1.0)
    assert curve[1].sequential_lora_cosine is None
    assert curve[2].sequential_lora_exact == 0.0
    assert curve[2].sequential_lora_cosine == pytest.approx(_cosine(who, FORGOT, some[0].text))


def test_a_gate_that_takes_the_wrong_memory_is_seen(tmp_path: Path) -> None:
    first, *others = items()
    asked = first.qa[0].__class__(others[0].text, "x")  # a question that fits another memory better
    wrong = first.__class__(first.id, first.text, qa=(asked,))
    who = subject(tmp_path)
    curve = forgetting([wrong, *others], who.library, who.embedder, SETTINGS, who.model, {})
    assert curve[0].right == pytest.approx(2 / 3)  # alone it is below the threshold
    assert curve[1].right == pytest.approx(2 / 3)
    assert curve[1].exact == pytest.approx(2 / 3)
    assert curve[1].recall_cosine < 0.9


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    who = subject(tmp_path)
    forgetting(items(), who.library, who.embedder, SETTINGS, who.model, {})
    asked: Any = who.model.asked  # type: ignore[attr-defined]
    assert len({str(one) for one in asked}) == len(asked) < 9


def _cosine(who: Any, one: str, other: str) -> float:
    a, b = who.embedder.embed([one, other])
    return float(a @ b)
