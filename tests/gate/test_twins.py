"""Of memories that nearly coincide one answers, and where a query cannot tell them apart, the newest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.gate.banks import CHESS, FERRY, add, open_gate
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import GateSettings
from vllm_mega.gate.embedder import Embedder, load_embedder
from vllm_mega.gate.gate import Decision, Gate, Query
from vllm_mega.gate.twins import near, settled
from vllm_mega.requests.passes import reading, recitals

CODE = "What is the code of the side door of the mill?"
OLD = NewMemory("The code of the side door of the mill is 4471.", id="a-code")
NEW = NewMemory("The code of the side door of the mill is 9036.", id="b-code")
CHANGED = NewMemory("The code of the side door of the mill is 4417.", id="a-code")
FRONT = NewMemory("The code of the front door of the mill is 9036.", id="front")
THIRD = NewMemory("The code of the side door of the mill is 7088.", id="c-code")
SETTINGS = GateSettings()


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


def gate(root: Path, embedder: Embedder, *commits: list[NewMemory]) -> Gate:
    for number, memories in enumerate(commits):
        add(root, embedder, memories, seed=10 * number)
    return open_gate(root, embedder)


def asked(gate: Gate, question: str = CODE, **settings: float) -> Decision:
    return gate.decide([Query(question, settings=GateSettings(**settings))])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("commits", "wins"),
    [
        ([[OLD], [NEW]], "b-code"),
        ([[NEW], [OLD]], "a-code"),
        ([[NEW, OLD]], "a-code"),
        ([[OLD], [NEW], [CHANGED]], "a-code"),
        ([[OLD], [NEW], [OLD]], "b-code"),
        ([[NEW], [FERRY, OLD], [CHESS, THIRD]], "c-code"),
    ],
    ids=["later", "by age, not by name", "of one file the later line", "updated", "repeated", "three"],
)
def test_the_newer_wins_the_same_in_every_mode(
    tmp_path: Path, embedder: Embedder, commits: list[list[NewMemory]], wins: str
) -> None:
    decision = asked(gate(tmp_path / "bank", embedder, *commits))
    assert [(hit.id, hit.weight) for hit in decision.hits] == [(wins, 1.0)]
    assert recitals(decision) == [decision.mixture]
    assert {c.adapter for c in reading(decision).components} == {decision.hits[0].row.adapter}


def test_what_the_query_tells_apart_is_not_decided_by_age(tmp_path: Path, embedder: Embedder) -> None:
    doors = gate(tmp_path / "bank", embedder, [FRONT], [OLD])
    for question, wanted in ((CODE, "a-code"), (CODE.replace("side", "front"), "front")):
        assert [hit.id for hit in asked(doors, question).hits] == [wanted]


def test_twins_stay_in_the_list_and_can_be_named(tmp_path: Path, embedder: Embedder) -> None:
    codes = gate(tmp_path / "bank", embedder, [OLD], [NEW])
    _, hits = codes.explain(Query(CODE))
    assert {hit.id: hit.weight for hit in hits} == {"a-code": 0, "b-code": 1}
    assert all(hit.score and hit.score > 0.8 for hit in hits)
    assert [hit.id for hit in codes.explicit("default", [("a-code", 1.0)]).hits] == ["a-code"]


def test_others_are_blended_as_ever() -> None:
    keys = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    scores = np.array([0.6, 0.59, 0.5])
    ages = [3.0, 1.0, 2.0]
    np.testing.assert_array_equal(settled(scores, keys, ages, ["a", "b", "c"], SETTINGS, 0.9), scores)


def test_below_the_threshold_nothing_is_settled() -> None:
    keys = np.array([[1, 0], [1, 0]], np.float32)
    scores = np.array([0.3, 0.3])
    np.testing.assert_array_equal(settled(scores, keys, [1.0, 2.0], ["a", "b"], SETTINGS, 0.9), scores)


def test_near() -> None:
    keys = np.array([[1, 0], [0, 1]], np.float32)
    assert list(near(keys[:1], keys, 0.9)) == [(0, 0, 1.0)]


def test_of_an_embedder_with_crowded_scores_twins_are_nearer() -> None:
    keys = np.array([[1, 0], [0.9, 0.436]], np.float32)
    scores = np.array([0.92, 0.91])
    for wide, wanted in ((0.9, [-np.inf, 0.91]), (0.2, scores)):
        found = settled(scores, keys, [1.0, 2.0], ["a", "b"], SETTINGS, wide)
        np.testing.assert_array_equal(found, wanted)
