"""The gate over a real bank, with an embedder that needs no model."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.banks import WHO, Item, forget, make_bank
from tests.gate.banks import CHESS, FERRY, KILN, ORCHID, add, open_gate
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.changes import link
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.errors import BankMismatchError, MemoryNotFoundError, MixtureError
from vllm_mega.gate.embedder import FakeEmbedder, load_embedder
from vllm_mega.gate.gate import Gate, Query
from vllm_mega.mixture import EMPTY, Mixture

SETTINGS = GateSettings(top_k=3, threshold=0.45, beta=10.0)


class Counting(FakeEmbedder):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        return super().embed(texts)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    root = tmp_path / "bank"
    add(root, FakeEmbedder(), [KILN, FERRY, CHESS, ORCHID])
    return root


def gate_of(bank: Path) -> Gate:
    return open_gate(bank, FakeEmbedder())


def name(memory_id: str) -> MemoryName:
    return MemoryName("default", memory_id)


def ask(text: str, namespace: str = "default", settings: GateSettings = SETTINGS) -> Query:
    return Query(text, namespace, settings)


def test_the_memory_that_is_meant(bank: Path) -> None:
    (decision,) = gate_of(bank).decide([ask("Who fires blue tiles in a kiln?")])
    (hit,) = decision.hits
    with Library(bank) as library:
        row = library.get("default", "kiln")
        assert (hit.id, hit.title, hit.weight, hit.row) == ("kiln", "The kiln", 1.0, row)
        assert decision.best_score == hit.score
        assert decision.event == library.event == 4
        assert decision.mixture == Mixture([(row.adapter or "", str(library.folder(row)), 1.0)])
    assert Path(decision.mixture.components[0].path, "adapter_model.safetensors").is_file()


def test_null_route(bank: Path) -> None:
    (decision,) = gate_of(bank).decide([ask("quantum bananas")])
    assert (decision.mixture, decision.hits) == (EMPTY, ())
    assert decision.best_score is not None
    assert decision.best_score < SETTINGS.threshold


def test_two_memories_share_the_weight(bank: Path) -> None:
    text = f"{KILN.text} {FERRY.text}"
    (decision,) = gate_of(bank).decide([ask(text)])
    first, second = decision.hits
    assert {first.id, second.id} == {"kiln", "ferry"}
    assert first.weight + second.weight == 1.0
    assert first.weight >= second.weight >= 0.3
    assert first.score is not None
    assert second.score is not None
    odds = math.exp(SETTINGS.beta * (first.score - second.score))
    assert first.weight == pytest.approx(odds / (1 + odds), abs=1 / 128)


def test_never_outside_the_namespace(bank: Path) -> None:
    gate = gate_of(bank)
    everything = GateSettings(top_k=64, threshold=-1.0, beta=0.0)
    mine, theirs, nobody = gate.decide(
        [ask(ORCHID.text, space, everything) for space in ("default", "garden", "nobody")]
    )
    assert {hit.id for hit in mine.hits} == {"kiln", "ferry", "chess"}
    assert [hit.id for hit in theirs.hits] == ["orchid"]
    assert theirs.best_score == 1.0
    assert mine.best_score is not None
    assert mine.best_score < 0.9, "the best score tells of a memory of another namespace"
    assert (nobody.hits, nobody.best_score) == ((), None)
    assert {hit.id for hit in gate.explain(ask(ORCHID.text, "default"))[1]} == {"kiln", "ferry", "chess"}
    with pytest.raises(MemoryNotFoundError, match="namespace 'default' has no memory 'orchid'"):
        gate.explicit("default", [("orchid", 1.0)])


def test_the_same_alone_and_among_others_in_one_call_of_the_embedder(bank: Path) -> None:
    embedder = Counting()
    gate = open_gate(bank, embedder)
    embedder.calls.clear()
    queries = [
        ask("Who fires blue tiles?"),
        ask("Who fires blue tiles?", settings=GateSettings(top_k=1, threshold=0.0, beta=1.0)),
        ask("blue", "garden"),
        ask("the ferry and the chess queen"),
    ]
    together = gate.decide(queries)
    assert embedder.calls == [[query.text for query in queries]]
    assert [gate.decide([query])[0] for query in queries] == together
    assert list(reversed(gate.decide(queries[::-1]))) == together
    assert gate.decide([]) == []


def test_what_is_new_is_noticed(bank: Path) -> None:
    gate = gate_of(bank)
    lamp = msgspec.structs.replace(KILN, text="A lamp of amber hums when it rains.", id="lamp")
    query = ask("Which lamp hums when it rains?")
    assert gate.decide([query])[0].mixture == EMPTY
    add(bank, FakeEmbedder(), [lamp], seed=9)
    after = gate.decide([query])[0]
    assert ([hit.id for hit in after.hits], after.event) == (["lamp"], 5)
    forget(bank, ("default", "lamp"))
    assert gate.decide([query])[0].mixture == EMPTY


def test_threads_see_whole_changes_alone(bank: Path) -> None:
    gate = open_gate(bank, FakeEmbedder())
    pair = [msgspec.structs.replace(KILN, id=one) for one in ("left", "right")]
    wide = GateSettings(top_k=8, threshold=-1.0, beta=0.0)
    done = threading.Event()

    def both_or_none() -> set[tuple[int, int]]:
        seen = set()
        while not done.is_set():
            shown = {hit.id for hit in gate.explain(ask(FERRY.text, settings=wide))[1]}
            assert len(shown & {"left", "right"}) != 1
            seen.add((len(shown), gate.decide([ask(FERRY.text)])[0].event))
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(both_or_none) for _ in range(3)]
        try:
            for turn in range(6):
                add(bank, FakeEmbedder(), pair, seed=2 * turn)
                forget(bank, ("default", "left"), ("default", "right"))
        finally:
            done.set()
        seen = set().union(*(one.result() for one in asking))
    assert {count for count, _ in seen} <= {3, 5}
    assert len(seen) > 1, "nobody saw a change"


def test_a_dialogue_gives_the_mean_of_both_cosines(bank: Path) -> None:
    embedder = Counting()
    gate = open_gate(bank, embedder)
    embedder.calls.clear()
    low = GateSettings(top_k=3, threshold=-1.0, beta=10.0)
    text, talk = "And what does it burn?", "And what does it burn?\nWho fires blue tiles in a kiln?"
    (both,) = gate.decide([Query(text, settings=low, dialogue=talk)])
    assert embedder.calls == [[text, talk]]
    apart = [
        {hit.id: hit.score for hit in d.hits}
        for d in gate.decide([ask(t, settings=low) for t in (text, talk)])
    ]
    for hit in both.hits:
        first, second = (scores.get(hit.id) for scores in apart)
        if first is not None and second is not None:
            assert hit.score == pytest.approx((first + second) / 2, abs=1e-4)
    assert both.hits[0].id == "kiln"
    assert gate.explain(Query(text, settings=low, dialogue=talk))[0] == both


def test_a_dialogue_of_one_message_is_the_message(bank: Path) -> None:
    embedder = Counting()
    gate = open_gate(bank, embedder)
    embedder.calls.clear()
    queries = [
        Query("Who fires blue tiles?", dialogue="Who fires blue tiles?"),
        Query("Who fires blue tiles?"),
        Query("the ferry", dialogue="the ferry\nits oxen"),
    ]
    first, second, third = gate.decide(queries)
    assert embedder.calls == [[*(query.text for query in queries), "the ferry\nits oxen"]]
    assert first == second
    assert gate.decide(queries[2:]) == [third]


def test_links_are_followed_inside_the_namespace(bank: Path) -> None:
    gate = gate_of(bank)
    query = ask("Who fires blue tiles in a kiln?")
    assert [hit.id for hit in gate.decide([query])[0].hits] == ["kiln"]
    with open_catalog(bank) as catalog:
        link(catalog, name("kiln"), ["orchid", "chess", "nowhere"], WHO)
    decision, hits = gate.explain(query)
    assert [hit.id for hit in decision.hits] == ["kiln", "chess"]
    assert decision.hits[0].weight > decision.hits[1].weight > 0
    raw = {hit.id: hit.score for hit in hits}
    assert decision.hits[1].score == raw["chess"]
    assert raw["chess"] is not None
    assert raw["chess"] < SETTINGS.threshold, "the score is the cosine, not what the link made of it"
    forget(bank, ("default", "chess"))
    assert [hit.id for hit in gate.decide([query])[0].hits] == ["kiln"], "a forgotten memory was reached"


def test_explain_shows_every_memory_best_first(bank: Path) -> None:
    gate = gate_of(bank)
    query = ask("Who fires blue tiles in a kiln?")
    decision, hits = gate.explain(query)
    assert decision == gate.decide([query])[0]
    assert len(hits) == 3
    assert [hit.score for hit in hits] == sorted([hit.score or 0 for hit in hits], reverse=True)
    assert [(hit.id, hit.weight) for hit in hits if hit.weight] == [("kiln", 1.0)]


def test_explicit_mixtures_are_taken_as_they_are(bank: Path) -> None:
    gate = gate_of(bank)
    decision = gate.explicit("default", [("kiln", 0.25), ("chess", 1.5), ("ferry", -0.5)])
    assert [(hit.id, hit.weight, hit.score) for hit in decision.hits] == [
        ("chess", 1.5, None), ("kiln", 0.25, None), ("ferry", -0.5, None),
    ]  # fmt: skip
    assert sorted(c.weight for c in decision.mixture.components) == [-0.5, 0.25, 1.5]
    assert (decision.best_score, decision.event) == (None, 4)
    assert (
        decision.mixture
        == gate.explicit("default", [("chess", 1.5), ("ferry", -0.5), ("kiln", 0.25)]).mixture
    )
    assert gate.explicit("default", []).mixture == EMPTY


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        ([("kiln", 0.5), ("kiln", 0.5)], "'kiln' is named twice"),
        ([("kiln", 0.001)], r"the weight of 'kiln' rounds to 0 in steps of 1/64, got 0\.001"),
        ([("kiln", math.nan)], "must be a finite number in"),
        ([("kiln", 1e9)], "must be a finite number in"),
    ],
)
def test_bad_explicit_mixtures(bank: Path, memories: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(MixtureError, match=message) as caught:
        gate_of(bank).explicit("default", memories)
    assert caught.value.param == "mega.memories"


def test_an_empty_bank(tmp_path: Path) -> None:
    add(tmp_path / "bank", FakeEmbedder(), [])
    (decision,) = gate_of(tmp_path / "bank").decide([ask("anything")])
    assert (decision.mixture, decision.best_score) == (EMPTY, None)


def test_another_embedder_is_refused(bank: Path) -> None:
    with pytest.raises(BankMismatchError, match="was made with the embedder fake"):
        open_gate(bank, FakeEmbedder(8))


def test_default_embedder_and_settings_tell_related_from_unrelated(tmp_path: Path) -> None:
    embedder = load_embedder()
    add(tmp_path / "bank", embedder, [KILN, FERRY, CHESS, ORCHID])
    gate = open_gate(tmp_path / "bank", embedder)
    questions = ["Who fires blue tiles?", "What pulls the ferry of Dunmarrow?", "How do I boil an egg?"]
    decisions = gate.decide([Query(text) for text in questions])
    assert [[(hit.id, hit.weight) for hit in decision.hits] for decision in decisions] == [
        [("kiln", 1.0)], [("ferry", 1.0)], [],
    ]  # fmt: skip
    assert [gate.decide([Query(text)])[0] for text in questions] == decisions


def add_pending(bank: Path, memory: NewMemory) -> None:
    """A memory that waits for its adapter."""
    embedder = FakeEmbedder()
    make_bank(bank, [Item(memory, key=embedder.embed([memory.text])[0])], embedder=embedder.info)


def test_a_memory_without_an_adapter_is_chosen_and_not_in_the_mixture(bank: Path) -> None:
    waits = NewMemory("The mill of Harrow Fen grinds only by moonlight.", id="mill", title="The mill")
    gate = gate_of(bank)
    add_pending(bank, waits)
    alone, beside = gate.decide([ask(waits.text), ask(f"{waits.text} {KILN.text}")])
    assert [(hit.id, hit.weight, hit.row.state) for hit in alone.hits] == [("mill", 1.0, "pending")]
    assert (alone.mixture, alone.best_score) == (EMPTY, 1.0)
    assert gate.text(alone.hits[0].row) == waits.text
    assert {hit.id for hit in beside.hits} == {"mill", "kiln"}
    (kiln,) = (hit for hit in beside.hits if hit.id == "kiln")
    assert [(c.adapter, c.weight) for c in beside.mixture.components] == [(kiln.row.adapter, kiln.weight)]
    named = gate.explicit("default", [("mill", 0.5), ("kiln", 0.25)])
    assert [(hit.id, hit.weight) for hit in named.hits] == [("mill", 0.5), ("kiln", 0.25)]
    assert [c.weight for c in named.mixture.components] == [0.25]
    forget(bank, ("default", "mill"))
    assert gate.decide([ask(waits.text)])[0].hits == ()
    with pytest.raises(MemoryNotFoundError, match="namespace 'default' has no memory 'mill'"):
        gate.text(alone.hits[0].row)


def test_a_new_text_is_read_when_it_answers(bank: Path) -> None:
    """The old version has an adapter, and answers until the new one has."""
    gate = gate_of(bank)
    add_pending(bank, msgspec.structs.replace(KILN, text="The kiln of Mirela Osk is a whale of blue tiles."))
    (decision,) = gate.decide([ask(KILN.text)])
    (hit,) = decision.hits
    assert (hit.row.version, hit.row.state) == (1, "pending")
    assert gate.text(hit.row) == KILN.text
    assert len(decision.mixture) == 1


def test_an_explanation_says_who_came_next_and_what_links_did(bank: Path) -> None:
    gate = gate_of(bank)
    question = "Who fires blue tiles in a kiln?"
    plain = ask(question)
    asked = replace(plain, explain=True)
    (decision,) = gate.decide([asked])
    assert decision.explanation is not None
    _, everybody = gate.explain(plain)
    others = [(hit.id, hit.score) for hit in everybody if hit.id != "kiln"]
    assert [(hit.id, hit.score) for hit, _ in decision.explanation.runners_up] == others
    assert {why for _, why in decision.explanation.runners_up} == {"threshold"}
    assert decision.explanation.links == ()
    assert replace(decision, explanation=None) == gate.decide([plain])[0]
    with open_catalog(bank) as catalog:
        link(catalog, name("kiln"), ["chess", "nowhere"], WHO)
    (linked,) = gate.decide([asked])
    assert linked.explanation is not None
    (followed,) = linked.explanation.links
    assert (followed.source, followed.target) == ("kiln", "chess")
    assert followed.score == dict(others)["chess"]
    assert followed.raised == pytest.approx(0.8 * (decision.best_score or 0), abs=1e-4)
    assert [hit.id for hit, _ in linked.explanation.runners_up] == ["ferry"]
    one = replace(asked, text=f"{KILN.text} {FERRY.text}", settings=GateSettings(top_k=1, threshold=0.3))
    (narrow,) = gate.decide([one])
    assert narrow.explanation is not None
    assert narrow.explanation.runners_up[0][1] == "top_k"
