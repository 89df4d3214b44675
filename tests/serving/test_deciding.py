"""From asks to mixtures: one embedding call, and each request's trouble is its own."""

from __future__ import annotations

from typing import Any

from tests.serving.fakes import FakeGate
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import BankError, MemoryNotFoundError, MixtureError
from vllm_mega.serving.deciding import NULL_ROUTE, Ask, decide, describe
from vllm_mega.serving.schemas import make_plan

SETTINGS = MegaSettings(bank="bank", gate=GateSettings(top_k=2))


def ask(text: str | None, **mega: Any) -> Ask:
    return Ask(make_plan(mega, SETTINGS), text)


def test_all_texts_are_embedded_in_one_call() -> None:
    gate: Any = FakeGate()
    asks = [
        ask("the bees"), ask("nothing"), ask("bees and owls", mode="off"), ask(None), ask(" "),
        ask("owls", namespace="other", top_k=1), ask("owls", memories=[{"id": "goats", "weight": 0.5}]),
    ]  # fmt: skip
    answers = decide(gate, asks, slots=4)
    assert [[q.text for q in call] for call in gate.calls] == [["the bees", "nothing", "owls"]]
    assert [q.namespace for q in gate.calls[0]] == ["default", "default", "other"]
    assert [q.settings.top_k for q in gate.calls[0]] == [2, 2, 1]
    assert [getattr(a, "mixture", None) and [h.id for h in a.hits] for a in answers] == [
        ["bees"], answers[1].mixture, NULL_ROUTE.mixture, NULL_ROUTE.mixture, NULL_ROUTE.mixture,
        ["owls"], ["goats"],
    ]  # fmt: skip
    assert answers[6].mixture.components[0].weight == 0.5


def test_nothing_to_compare_does_not_call_the_embedder() -> None:
    gate: Any = FakeGate()
    assert decide(gate, [ask("bees", enabled=False)], 4) == [NULL_ROUTE]
    assert decide(gate, [], 4) == []
    assert gate.calls == []


def test_an_unknown_memory_is_its_own_trouble() -> None:
    gate: Any = FakeGate()
    answers = decide(gate, [ask("bees"), ask("bees", memories=[{"id": "elk"}]), ask("owls")], 4)
    assert isinstance(answers[1], MemoryNotFoundError)
    assert [h.id for a in (answers[0], answers[2]) for h in a.hits] == ["bees", "owls"]


def test_a_bank_that_cannot_be_read_troubles_all_who_compare() -> None:
    gate: Any = FakeGate()
    gate.error = BankError("gone")
    answers = decide(gate, [ask("bees"), ask("x", mode="off"), ask("owls")], 4)
    assert answers == [gate.error, NULL_ROUTE, gate.error]


def test_wider_than_the_slots() -> None:
    gate: Any = FakeGate()
    wide = [{"id": name} for name in gate.names]
    refused, fits, gated = decide(
        gate, [ask(None, memories=wide), ask("bees"), ask("bees goats owls")], slots=2
    )
    for answer in (refused, gated):
        assert isinstance(answer, MixtureError)
        assert "3 memories, but the engine has 2 slots" in str(answer)
        assert answer.param == "mega.memories"
    assert len(fits.mixture) == 1


def test_describe() -> None:
    gate: Any = FakeGate()
    wish = ask("bees and owls", mode="irag", namespace="n")
    (decision,) = decide(gate, [wish], 4)
    assert describe(wish.plan, decision, "Once.") == {
        "memories": [
            {"id": "bees", "title": "Bees", "weight": 0.5, "score": 0.9},
            {"id": "owls", "title": "Owls", "weight": 0.5, "score": 0.9},
        ],
        "mode": "irag", "best_score": 0.9, "namespace": "n", "recalled": "Once.",
    }  # fmt: skip
    assert describe(ask(None).plan, NULL_ROUTE) == {
        "memories": [], "mode": "adapter", "best_score": None, "namespace": "default",
    }  # fmt: skip
