"""What others do to the bank while it trains, and before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.banks import adapters, newest, problems
from tests.training.sessions import ALL, QUICK, content, run
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.changes import put, retire
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.forgetting import forget as forget_memories
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.records import Draft, MemoryName, Source
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import BankNotFoundError, TrainingError
from vllm_mega.models import linear_shapes
from vllm_mega.training.recipe.job import Fit, Job
from vllm_mega.training.run import crew
from vllm_mega.training.run.outcome import Trained
from vllm_mega.training.run.session import train, train_waiting
from vllm_mega.training.run.trainer import Trainer


def test_others_change_the_bank_while_it_trains(tmp_path: Path, tiny: Path) -> None:
    """Forgotten while it was trained: not there. Changed: its new text is trained."""
    bank, seen = tmp_path / "bank", list[str]()
    changed = msgspec.structs.replace(BELL, text="Nine geese sing at night.")

    def meddle(done: int, _total: int, last: Trained | None) -> None:
        if last is None:
            return
        seen.append(last.id)
        if done == 1:
            with open_catalog(bank) as catalog:
                forget_memories(catalog, [MemoryName("default", "lamp")], "somebody")
                draft = draft_of(newest(bank, "bell"), train=True)
                put(catalog, [replaced(draft, changed)], "somebody")

    report = train(bank, ALL, str(tiny), f"base:{tiny}", QUICK, meddle)
    assert (seen, report.failed) == (["kettle", "bell"], [])
    assert set(adapters(bank)) == {"kettle", "bell"}
    assert content(bank, "bell") == changed
    run(tmp_path / "alone", tiny, (changed,))
    assert adapters(bank)["bell"] == adapters(tmp_path / "alone")["bell"]
    assert problems(bank, linear_shapes(tiny)) == []


def test_a_memory_that_changes_under_the_trainer_is_trained_anew(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, changed = tmp_path / "bank", msgspec.structs.replace(BELL, text="Nine geese sing at night.")

    class Meddling(Trainer):
        """Trains the bell while somebody changes it, and the lamp while somebody forgets it."""

        def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
            fits = list(super().fit(jobs))
            with open_catalog(bank) as catalog:
                if len(list_jobs(catalog)) == 3:
                    forget_memories(catalog, [MemoryName("default", "lamp")], "somebody")
                    draft = draft_of(newest(bank, "bell"), train=True)
                    put(catalog, [replaced(draft, changed)], "somebody")
            return iter(fits)

    monkeypatch.setattr(crew, "Trainer", Meddling)
    report = run(bank, tiny, ALL, msgspec.structs.replace(QUICK, jobs=3))
    assert ([one.id for one in report.trained], report.failed) == (["kettle", "bell"], [])
    assert content(bank, "bell") == changed
    assert set(adapters(bank)) == {"kettle", "bell"}
    run(tmp_path / "alone", tiny, (changed,), msgspec.structs.replace(QUICK, jobs=3))
    assert adapters(bank)["bell"] == adapters(tmp_path / "alone")["bell"]


def replaced(draft: Draft, memory: NewMemory) -> Draft:
    return msgspec.structs.replace(draft, memory=memory, text_digest=text_digest(memory))


def test_a_retired_memory_is_not_trained_and_not_waited_for(tmp_path: Path, tiny: Path) -> None:
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE,))
    with open_catalog(bank) as catalog:
        put(catalog, [Draft(one, text_digest(one)) for one in (LAMP, BELL)], "somebody")
        retire(catalog, MemoryName("default", "bell"), "somebody")
        meanwhile = list[str]()

        def retires(done: int, _total: int, _last: Trained | None) -> None:
            meanwhile.append(str(done))
            retire(catalog, MemoryName("default", "lamp"), "somebody", retired=not done)

        report = train_waiting(bank, str(tiny), QUICK, retires)
        assert (report.trained, report.failed, meanwhile) == ([], [], ["0"])
        retire(catalog, MemoryName("default", "lamp"), "somebody", retired=False)
    report = run(bank, tiny, ALL)
    assert [one.id for one in report.trained] == ["lamp"]
    assert set(adapters(bank)) == {"kettle", "lamp"}


def test_what_waits_is_trained_whoever_stored_it(tmp_path: Path, tiny: Path) -> None:
    """A text that is too long for the model was never looked at: it fails, and costs no other."""
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE,))
    long = NewMemory("nine geese count copper bells " * 60, id="long")
    with open_catalog(bank) as catalog:
        drafts = [Draft(one, text_digest(one), source=Source("book.md")) for one in (LAMP, long, BELL)]
        put(catalog, drafts, "somebody")
        put(catalog, [Draft(msgspec.structs.replace(LAMP, id="still"), "d", train=False)], "somebody")
    report = train_waiting(bank, str(tiny), msgspec.structs.replace(QUICK, jobs=3))
    assert [(one.id, one.why) for one in report.trained] == [("bell", "new"), ("lamp", "new")]
    assert [(one.id, one.reason[:38]) for one in report.failed] == [
        ("long", "with its prompt and a question it has ")
    ]
    assert set(adapters(bank)) == {"kettle", "lamp", "bell"}
    assert newest(bank, "lamp").source == Source("book.md")
    with pytest.raises(TrainingError, match="the model reads 256"):
        train_waiting(bank, str(tiny), QUICK)
    with pytest.raises(BankNotFoundError):
        train_waiting(tmp_path / "none", str(tiny), QUICK)
