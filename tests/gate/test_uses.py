"""Uses between gates and a real catalog: what one process sees, the others know soon."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.banks import forget
from tests.gate.banks import CELLAR, CHESS, FERRY, GOATS, KILN, LANTERN, ORCHID, add, make_used
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.changes import pin
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.uses import Use, read_uses
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import BankError, ConfigError
from vllm_mega.gate import uses
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.salience import REST, Salience
from vllm_mega.gate.uses import Standing, UseTracker, track_uses

HALF_LIFE = 30 * 86_400.0
RULES = Salience(0.05, HALF_LIFE)
KILN_, FERRY_ = MemoryName("default", "kiln"), MemoryName("default", "ferry")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Counts(list[tuple[str, int]]):
    def __call__(self, outcome: str, number: int) -> None:
        self.append((outcome, number))


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    add(tmp_path / "bank", FakeEmbedder(), [KILN, FERRY, CHESS, ORCHID])
    return tmp_path / "bank"


@pytest.fixture
def catalog(bank: Path) -> Iterator[Catalog]:
    with open_catalog(bank) as opened:
        yield opened


def gate_with(bank: Path, clock: Clock) -> Gate:
    index = Index()
    library = Library(bank, keys=index)
    return Gate(library, index, FakeEmbedder(), UseTracker(library.catalog, RULES, clock=clock))


def tracked(gate: Gate) -> UseTracker:
    assert gate.uses is not None
    return gate.uses


def test_what_one_sees_all_know_after_an_exchange(catalog: Catalog, bank: Path) -> None:
    clock, counts = Clock(), Counts()
    with open_catalog(bank) as other:
        one, two = (
            UseTracker(catalog, RULES, count=counts, clock=clock),
            UseTracker(other, RULES, clock=clock),
        )
        one.note([KILN_, FERRY_])
        one.note([KILN_])
        assert one.standing(KILN_) == Standing(0.0, 0.0, None), "not written yet"
        one.exchange()
        two.exchange()
        assert counts == [("flushed", 2)]
        assert one.standing(KILN_) == two.standing(KILN_) == Standing(1 / 16, 1.0, clock.now)
        clock.now += REST
        two.note([KILN_])
        two.exchange()
        one.exchange()
        assert one.standing(KILN_).strength == pytest.approx(2.0, abs=0.01)
        assert one.standing(FERRY_).last == clock.now - REST
    assert counts == [("flushed", 2)], "an exchange without uses writes nothing"


def test_age_makes_less_of_it(catalog: Catalog) -> None:
    clock = Clock()
    tracker = UseTracker(catalog, RULES, clock=clock)
    make_used(catalog, "kiln", clock.now, 20.0)
    tracker.exchange()
    young = tracker.standing(KILN_)
    clock.now += HALF_LIFE
    old = tracker.standing(KILN_)
    assert old.strength == pytest.approx(young.strength / 2)
    assert old.salience < young.salience
    clock.now += 10 * HALF_LIFE
    assert tracker.standing(KILN_).salience == 0.0


def test_a_pin_is_the_highest_and_needs_no_use(catalog: Catalog) -> None:
    tracker = UseTracker(catalog, RULES, clock=Clock())
    pin(catalog, KILN_, "tester")
    tracker.exchange()
    assert tracker.standing(KILN_) == Standing(1.0, 0.0, None)


def test_a_memory_that_comes_back_under_a_forgotten_name_has_no_uses(catalog: Catalog, bank: Path) -> None:
    tracker = UseTracker(catalog, RULES, clock=Clock())
    tracker.note([KILN_])
    tracker.exchange()
    forget(bank, KILN_)
    add(bank, FakeEmbedder(), [KILN])
    tracker.exchange()
    assert tracker.standing(KILN_) == Standing(0.0, 0.0, None)


def test_what_cannot_be_written_waits(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, counts = Clock(), Counts()
    tracker = UseTracker(catalog, RULES, count=counts, clock=clock)
    seen = clock.now

    def refuse(*_: object) -> None:
        raise BankError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(uses, "add_uses", refuse)
        tracker.note([KILN_])
        tracker.exchange()
        clock.now += 7.0
        tracker.note([KILN_, FERRY_])
        tracker.exchange()
    assert counts == []
    assert "not exchanged with the bank: the disk is full" in caplog.text
    tracker.exchange()
    assert counts == [("flushed", 2)]
    assert read_uses(catalog).used == {KILN_: Use(1.0, seen), FERRY_: Use(1.0, seen + 7.0)}


def test_only_so_many_wait(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "MOST", 1)
    counts = Counts()
    tracker = UseTracker(catalog, RULES, count=counts, clock=Clock())
    tracker.note([KILN_, FERRY_])
    tracker.note([KILN_])
    tracker.exchange()
    assert counts == [("dropped", 1), ("flushed", 1)]
    assert set(read_uses(catalog).used) == {KILN_}


def test_uses_are_exchanged_now_and_then(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "PACE", 0.01)
    flushed = threading.Event()
    tracker = UseTracker(catalog, RULES, count=lambda *_: flushed.set())
    tracker.start()
    tracker.note([KILN_])
    assert flushed.wait(30)
    tracker.note([FERRY_])
    tracker.stop()
    assert set(read_uses(catalog).used) == {KILN_, FERRY_}
    assert not [thread for thread in threading.enumerate() if thread.name == "mega-uses"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_gate_that_ends_writes_what_was_used(bank: Path, closed: bool) -> None:
    gate = gate_with(bank, Clock())
    library = gate.library
    gate.used(gate.decide([Query(KILN.text)])[0])
    if closed:
        gate.close()
    else:
        del gate
        gc.collect()
        library.close()
    with open_catalog(bank) as catalog:
        assert set(read_uses(catalog).used) == {KILN_}


def test_use_tips_a_near_tie_and_an_explanation_says_so(tmp_path: Path) -> None:
    bank, clock = tmp_path / "near", Clock()
    add(bank, FakeEmbedder(), [CELLAR, GOATS])
    gate = gate_with(bank, clock)
    query = Query(LANTERN, settings=GateSettings(top_k=1), explain=True)
    (before,) = gate.decide([query])
    assert [hit.id for hit in before.hits] == ["cellar"]
    assert before.explanation is not None
    assert [(tip.id, tip.added) for tip in before.explanation.tips or ()] == [("cellar", 0.0), ("goats", 0.0)]
    make_used(gate.library.catalog, "goats", clock.now, 200.0)
    tracked(gate).exchange()
    (after,) = gate.decide([query])
    assert [hit.id for hit in after.hits] == ["goats"]
    assert after.explanation is not None
    _, tip = after.explanation.tips or ()
    assert (tip.id, tip.salience) == ("goats", 15 / 16)
    assert tip.added == pytest.approx(0.05 * 15 / 16, abs=1e-4)
    assert after.best_score == before.best_score, "a score stays what it is"
    assert gate.explain(query)[0].hits == after.hits, "who asks for all of them hears the same"
    gate.close()


def test_use_that_does_not_count_is_neither_read_nor_written(
    bank: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "read_uses", None)
    assert track_uses(catalog, MegaSettings(str(bank))) is None
    index = Index()
    gate = Gate(Library(bank, keys=index), index, FakeEmbedder())
    (decision,) = gate.decide([Query(KILN.text, explain=True)])
    gate.used(decision)
    assert decision.explanation is not None
    assert decision.explanation.tips is None
    gate.close()
    assert read_uses(catalog).used == {}


def test_settings_say_how_much_use_counts(catalog: Catalog, bank: Path) -> None:
    tracker = track_uses(catalog, MegaSettings(str(bank), salience_margin=0.02, salience_half_life_days=7))
    assert tracker is not None
    assert tracker.rules == Salience(0.02, 7 * 86_400.0)
    for bad in ({"salience_margin": 0.3}, {"salience_margin": -0.1}, {"salience_half_life_days": 0.5}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            MegaSettings(str(bank), **bad)  # type: ignore[arg-type]
