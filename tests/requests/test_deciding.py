"""From asks to mixtures: one embedding call, and each request's trouble is its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.gate.banks import FERRY, KILN, add, open_gate
from tests.http.fakes import FakeGate
from tests.requests.decisions import decision_of
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import BankChangedError, BankError, MemoryNotFoundError, MixtureError, ModelError
from vllm_mega.gate.embedder import FakeEmbedder, Vectors
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.requests.deciding import NULL_ROUTE, Ask, decide
from vllm_mega.requests.schemas import make_plan

SETTINGS = MegaSettings(bank="bank", gate=GateSettings(top_k=2))


class TokenizingEmbedder(FakeEmbedder):
    """Fails as tokenizers do: for all texts of a call, when one cannot be encoded."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        for text in texts:
            text.encode()
        return super().embed(texts)


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


def test_tags_narrow_each_request_by_itself(tmp_path: Path) -> None:
    tagged = [msgspec.structs.replace(KILN, tags=("craft",)), FERRY]
    add(tmp_path / "bank", FakeEmbedder(), tagged)
    gate = open_gate(tmp_path / "bank", FakeEmbedder())
    asks = [ask(KILN.text), ask(KILN.text, tags=["craft"]), ask(KILN.text, tags=["other"]), ask(FERRY.text)]
    asks += [ask(FERRY.text, tags=["craft"])]
    answers = decide(gate, asks, 4)
    found = [[hit.id for hit in answer.hits] for answer in answers if isinstance(answer, Decision)]
    assert found == [["kiln"], ["kiln"], [], ["ferry"], []]
    assert answers == [decide(gate, [one], 4)[0] for one in asks]


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


@pytest.mark.parametrize(
    "trouble", [UnicodeEncodeError("utf-8", "?", 0, 1, "no"), RuntimeError(), ModelError()]
)
def test_a_text_that_the_embedder_fails_at_is_its_own_trouble(trouble: Exception) -> None:
    gate: Any = FakeGate()
    gate.fails = {"bad bees": trouble}
    asks = [ask("bees"), ask("bad bees"), ask("owls"), ask("bad bees", mode="off"), ask("goats")]
    answers = decide(gate, asks, 4)
    assert answers[1] is trouble
    assert [[h.id for h in a.hits] for n, a in enumerate(answers) if n != 1] == [  # type: ignore[union-attr]
        ["bees"], ["owls"], [], ["goats"],
    ]  # fmt: skip


def test_half_a_character_does_not_fail_a_real_gate(tmp_path: Path) -> None:
    """Beside the server, which refuses such texts before: whatever an embedder refuses, the others go on."""
    add(tmp_path / "bank", FakeEmbedder(), [KILN])
    gate = open_gate(tmp_path / "bank", TokenizingEmbedder())
    good, bad, dialogue = decide(gate, [ask(KILN.text), ask("\ud83d"), Ask(ask("a").plan, "a", "\ud83d")], 4)
    assert isinstance(good, Decision)
    assert [hit.id for hit in good.hits] == ["kiln"]
    assert isinstance(bad, UnicodeEncodeError)
    assert isinstance(dialogue, UnicodeEncodeError)


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


def test_a_conversation_is_asked_with_what_it_is_about() -> None:
    gate: Any = FakeGate()
    plan = make_plan(None, SETTINGS)
    talk = [
        {"role": "system", "content": "Think of goats."},
        {"role": "user", "content": "Tell me of bees."},
        {"role": "assistant", "content": "They hum."},
        {"role": "user", "content": "Why?"},
    ]
    assert Ask.about(plan, talk, SETTINGS) == Ask(plan, "Why?", "Why?\nThey hum.\nTell me of bees.")
    assert Ask.about(plan, talk[:2], SETTINGS) == Ask(plan, "Tell me of bees.")
    last = MegaSettings(bank="bank", dialogue=0)
    assert Ask.about(plan, talk, last) == Ask(plan, "Why?")
    decide(gate, [Ask.about(plan, talk, SETTINGS)], 4)
    assert [(q.text, q.dialogue) for q in gate.calls[0]] == [("Why?", "Why?\nThey hum.\nTell me of bees.")]


def test_texts_are_read_where_the_mode_or_the_state_wants_them() -> None:
    gate: Any = FakeGate()
    gate.pending = {"owls"}
    asks = [ask("bees and owls", mode=mode) for mode in ("adapter", "text", "both", "off")]
    answers: list[Any] = decide(gate, asks, slots=4)
    told = [[(hit.id, hit.text) for hit in answer.hits] for answer in answers]
    bees, owls = "All about bees.", "All about owls."
    assert told == [
        [("bees", None), ("owls", owls)], [("bees", bees), ("owls", owls)], [("bees", bees), ("owls", owls)],
        [],
    ]  # fmt: skip
    assert [len(answer.mixture) for answer in answers] == [1, 0, 1, 0]


def test_texts_need_no_slots() -> None:
    gate: Any = FakeGate()
    wide, read = decide(gate, [ask("bees goats owls", mode=mode) for mode in ("both", "text")], slots=2)
    assert isinstance(wide, MixtureError)
    assert isinstance(read, Decision)
    assert len(read.hits) == 3


def test_a_memory_that_is_forgotten_while_it_is_looked_at() -> None:
    gate: Any = FakeGate()
    gate.forgotten = {"owls"}
    named = [{"id": "owls"}]
    asks = [ask("owls", mode="text"), ask("x", mode="text", memories=named), ask("bees", mode="text")]
    changed, gone, other = decide(gate, asks, 4)
    assert isinstance(changed, BankChangedError)
    assert isinstance(gone, MemoryNotFoundError)
    assert isinstance(other, Decision)


def test_recall_takes_the_best_memory_alone_but_leaves_a_given_mixture() -> None:
    gate: Any = FakeGate()
    blend = decision_of({"a": 0.75, "b": 0.25})
    gate.decide = lambda queries: [blend] * len(queries)
    gate.explicit = lambda *_: blend
    given = [{"id": "a", "weight": 0.75}, {"id": "b", "weight": 0.25}]
    asks = [ask("x", mode="recall"), ask("x", mode="adapter"), ask("x", mode="recall", memories=given)]
    recall, direct, explicit = decide(gate, asks, 4)
    assert isinstance(recall, Decision)
    assert recall.mixture == Mixture([("a" * 64, "/bank/a", 1.0)])
    assert [(hit.id, hit.weight) for hit in recall.hits] == [("a", 1.0)]
    assert direct == explicit == blend
