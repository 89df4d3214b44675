from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.banks import adapters, last_event, newest, problems, row
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.changes import put
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.forgetting import forget as forget_memories
from vllm_mega.bank.catalog.keys import read_keys
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.reading import list_memories
from vllm_mega.bank.catalog.records import Draft, MemoryName, Source
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import BankMismatchError, BankNotFoundError, ModelError, TrainingError
from vllm_mega.gate.embedder import BaseModelEmbedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.models import DEFAULT_EMBEDDER, linear_shapes
from vllm_mega.training.recipe.job import Fit, Job
from vllm_mega.training.recipe.recipe import EndRules
from vllm_mega.training.run import crew, publishing
from vllm_mega.training.run.outcome import Failed, Trained, TrainReport
from vllm_mega.training.run.plan import prepare
from vllm_mega.training.run.session import train, train_waiting
from vllm_mega.training.run.trainer import Trainer

ALL = (KETTLE, LAMP, BELL)
QUICK = msgspec.structs.replace(SETTINGS, max_steps=4, jobs=1)


class OneFails(Trainer):
    """A trainer whose rounds end when the lamp is among the jobs."""

    rounds = 0

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        type(self).rounds += 1
        if any(LAMP.text in example.answer for job in jobs for example in job.examples):
            raise TrainingError("the loss is not finite")
        return super().fit(jobs)


def run(bank: Path, tiny: Path, memories: tuple = ALL, settings: object = QUICK) -> TrainReport:
    return train(bank, memories, str(tiny), f"base:{tiny}", settings)  # type: ignore[arg-type]


def content(bank: Path, memory_id: str) -> NewMemory:
    """What the bank says of a memory, but for its links."""
    return draft_of(newest(bank, memory_id), train=True).memory


def test_memories_become_adapters(tmp_path: Path, tiny: Path) -> None:
    told: list[tuple[int, int, Trained | None]] = []
    report = train(tmp_path / "bank", ALL, str(tiny), f"base:{tiny}", QUICK, lambda *args: told.append(args))
    assert set(adapters(tmp_path / "bank")) == {"kettle", "lamp", "bell"}
    assert problems(tmp_path / "bank", linear_shapes(tiny)) == []
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [one.id for one in report.trained] == ["kettle", "lamp", "bell"]
    version = newest(tmp_path / "bank", "kettle")
    assert content(tmp_path / "bank", "kettle") == KETTLE
    assert version.rank == QUICK.rank
    assert (version.training["steps"], version.training["seed"]) == (4, 0)


def test_what_is_there_is_not_trained_again(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE,))
    first = adapters(bank)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # not even loaded
    report = run(bank, tiny, (KETTLE,))
    assert (report.skipped, report.trained) == (1, [])
    assert adapters(bank) == first


def test_other_texts_and_settings_are_new_versions(tmp_path: Path, tiny: Path) -> None:
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE, BELL))
    changed = msgspec.structs.replace(KETTLE, text="Nine geese count copper.")
    report = run(bank, tiny, (changed, BELL))
    assert ([one.id for one in report.trained], report.skipped) == (["kettle"], 1)
    assert row(bank, "kettle").version == 2
    assert content(bank, "kettle") == changed

    report = run(bank, tiny, (changed, BELL), msgspec.structs.replace(QUICK, seed=1))
    assert ([one.id for one in report.trained], report.skipped) == (["kettle", "bell"], 0)
    assert set(adapters(bank)) == {"kettle", "bell"}


def test_order_and_company_change_nothing(tmp_path: Path, tiny: Path) -> None:
    """One at a time; memories that are trained side by side have each other's rounding."""
    run(tmp_path / "one", tiny, ALL)
    run(tmp_path / "two", tiny, ALL[::-1])
    run(tmp_path / "three", tiny, (LAMP,))
    assert adapters(tmp_path / "one") == adapters(tmp_path / "two")
    assert adapters(tmp_path / "three")["lamp"] == adapters(tmp_path / "one")["lamp"]


def test_a_bank_of_another_embedder_is_refused(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bank", tiny, (BELL,))
    with pytest.raises(BankMismatchError):
        train(tmp_path / "bank", (KETTLE,), str(tiny), DEFAULT_EMBEDDER, QUICK)


def test_model_and_embedder_come_from_the_bank(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bank", tiny, (BELL,))
    assert len(train(tmp_path / "bank", (KETTLE,), settings=QUICK).trained) == 1


def test_one_bad_memory_costs_no_other(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # told before the model is loaded
    long = msgspec.structs.replace(LAMP, text="nine geese count copper bells " * 60)
    with pytest.raises(TrainingError, match=r"1 of 2 memories .*\n  default/lamp: .* the model reads 256"):
        run(tmp_path / "bank", tiny, (KETTLE, long))
    assert not (tmp_path / "bank").exists()


def test_keys_are_made_once_and_stored(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    embed = BaseModelEmbedder.embed

    def counted(self: BaseModelEmbedder, texts: Sequence[str]) -> Vectors:
        calls.append(len(texts))
        return embed(self, texts)

    monkeypatch.setattr(BaseModelEmbedder, "embed", counted)
    run(tmp_path / "bank", tiny)
    assert calls == [3, 16], "the memories, and prompts that tell the embedder"
    expected = BaseModelEmbedder(str(tiny)).embed([memory.text for memory in ALL])
    with open_catalog(tmp_path / "bank") as catalog:
        stored = read_keys(catalog)
    places = [stored.names.index(MemoryName("default", memory.id)) for memory in ALL]
    np.testing.assert_array_equal(stored.keys[places], expected)


def test_a_base_model_that_has_moved_is_found_again(tmp_path: Path, tiny: Path) -> None:
    old, new = Path(shutil.copytree(tiny, tmp_path / "old")), tmp_path / "new"
    run(tmp_path / "bank", old, (BELL,))
    old.rename(new)
    with pytest.raises(ModelError, match=r"no such folder.*moved, give its new place with --model"):
        train(tmp_path / "bank", (KETTLE,), settings=QUICK)
    report = train(tmp_path / "bank", (BELL, KETTLE), str(new), settings=QUICK)
    assert (report.skipped, len(report.trained)) == (1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
        ({"tie_word_embeddings": False}, "saved without its head"),
        ({"model_type": "t5"}, "an encoder with a decoder"),
    ],
)
def test_a_base_model_that_cannot_be_trained(
    tmp_path: Path, tiny: Path, change: dict[str, object], words: str
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=words):
        run(tmp_path / "bank", folder)
    assert not (tmp_path / "bank").exists()


def test_modules_that_the_model_lacks_leave_no_half_memory(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ModelError, match="fc1"):
        run(tmp_path / "bank", tiny, ALL, msgspec.structs.replace(QUICK, modules=("fc1",)))
    assert not (tmp_path / "bank").exists()


def test_defaults_and_their_names_are_the_same_settings(tmp_path: Path, tiny: Path) -> None:
    default = msgspec.structs.replace(QUICK, modules=None, layers=None)
    named = msgspec.structs.replace(QUICK, modules=("gate_proj", "up_proj", "down_proj"), layers=3)
    assert len(run(tmp_path, tiny, (BELL,), default).trained) == 1
    assert run(tmp_path, tiny, (BELL,), named).skipped == 1


def test_changed_links_are_set_without_training(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path, tiny, ALL)
    linked = msgspec.structs.replace(KETTLE, links=("lamp",))
    report = run(tmp_path, tiny, (linked, LAMP))
    assert not report.trained
    assert row(tmp_path, "kettle").links == ("lamp",)
    event = last_event(tmp_path)
    run(tmp_path, tiny, (linked,))
    assert last_event(tmp_path) == event


def test_changed_tags_are_set_without_training(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, tiny, ALL)
    first, before = adapters(tmp_path), last_event(tmp_path)
    monkeypatch.setattr(crew, "Trainer", None)  # not even loaded
    tagged = msgspec.structs.replace(KETTLE, tags=("brass", "dawn"))
    report = run(tmp_path, tiny, (tagged, LAMP))
    assert (report.trained, report.skipped) == ([], 2)
    assert row(tmp_path, "kettle").tags == ("brass", "dawn")
    assert content(tmp_path, "kettle") == tagged
    assert last_event(tmp_path) == before + 1
    run(tmp_path, tiny, (tagged, LAMP))
    assert last_event(tmp_path) == before + 1
    run(tmp_path, tiny, (KETTLE,))
    assert row(tmp_path, "kettle").tags == ()
    assert adapters(tmp_path) == first
    assert problems(tmp_path, linear_shapes(tiny)) == []


def test_tags_are_in_no_adapter(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bare", tiny, (BELL,))
    run(tmp_path / "tagged", tiny, (msgspec.structs.replace(BELL, tags=("copper",), links=("lamp",)),))
    assert adapters(tmp_path / "bare") == adapters(tmp_path / "tagged")


def test_it_is_told_why_a_memory_is_trained_again(tmp_path: Path, tiny: Path) -> None:
    assert [one.why for one in run(tmp_path, tiny, (KETTLE, LAMP)).trained] == ["new", "new"]
    assert (
        newest(tmp_path, "kettle").recipe
        == prepare(tmp_path, ALL, str(tiny), f"base:{tiny}", QUICK).recipe.digest
    )
    titled = msgspec.structs.replace(KETTLE, title="kettle")
    other = msgspec.structs.replace(QUICK, ends=EndRules(patience=30))
    plan = prepare(tmp_path, (titled, LAMP), str(tiny), f"base:{tiny}", other)
    assert plan.why == ["other text and recipe", "other recipe"]
    report = run(tmp_path, tiny, (titled, LAMP, BELL))
    assert {one.id: one.why for one in report.trained} == {"kettle": "other text", "bell": "new"}
    report = run(tmp_path, tiny, (titled, LAMP), other)
    assert [one.why for one in report.trained] == ["other recipe", "other recipe"]
    assert run(tmp_path, tiny, (titled, LAMP), other).skipped == 2


def test_a_memory_that_ran_out_of_time_is_trained_again(tmp_path: Path, tiny: Path) -> None:
    hasty = msgspec.structs.replace(QUICK, seconds=1e-9)
    assert [one.ending for one in run(tmp_path, tiny, (BELL,), hasty).trained] == ["out of time"]
    assert [one.why for one in run(tmp_path, tiny, (BELL,)).trained] == ["ran out of time"]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_a_memory_whose_training_fails_costs_no_other(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(crew, "Trainer", OneFails)
    settings = msgspec.structs.replace(QUICK, jobs=jobs)
    linked = msgspec.structs.replace(LAMP, links=("bell",))
    report = run(tmp_path / "bank", tiny, (KETTLE, linked, BELL), settings)
    assert report.failed == [Failed("default", "lamp", "the loss is not finite")]
    assert [one.id for one in report.trained] == ["kettle", "bell"]
    assert set(adapters(tmp_path / "bank")) == {"kettle", "bell"}
    waiting = row(tmp_path / "bank", "lamp")
    assert (waiting.state, waiting.links) == ("pending", ("bell",))
    monkeypatch.undo()
    later = run(tmp_path / "bank", tiny, (KETTLE, linked, BELL), settings)
    assert ([one.id for one in later.trained], later.skipped) == (["lamp"], 2)


def test_when_every_training_fails_it_is_an_error(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Trainer", OneFails)
    with pytest.raises(TrainingError, match=r"no memory could be trained:\n  default/lamp: the loss"):
        run(tmp_path / "bank", tiny, (LAMP,))


def test_a_training_that_gives_a_bad_adapter_costs_no_other(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = publishing.export
    seen: dict[float, int] = {}

    def spoil(folder: Path, tensors: dict[str, Tensor], *args: object) -> None:
        numbers = float(next(iter(tensors.values())).sum())
        if seen.setdefault(numbers, len(seen)) == 1:
            tensors = {name: tensor * float("nan") for name, tensor in tensors.items()}
        export(folder, tensors, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(publishing, "export", spoil)
    report = run(tmp_path / "bank", tiny, ALL, msgspec.structs.replace(QUICK, jobs=3))
    assert "finite" in report.failed[0].reason
    assert len(report.trained) == len(adapters(tmp_path / "bank")) == 2
    assert problems(tmp_path / "bank", linear_shapes(tiny)) == []


def test_three_failures_are_told_by_the_memory_until_it_is_asked_for_again(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Trainer", OneFails)
    run(tmp_path, tiny, (KETTLE, LAMP))
    for state in ("pending", "failed", "pending"):
        with pytest.raises(TrainingError, match="the loss is not finite"):
            run(tmp_path, tiny, (KETTLE, LAMP))
        assert row(tmp_path, "lamp").state == state
    with open_catalog(tmp_path) as catalog:
        assert [(job.id, job.attempts, job.reason) for job in list_jobs(catalog)] == [
            ("lamp", 1, "the loss is not finite")
        ]


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
    run(tmp_path / "alone", tiny, (changed,))
    assert adapters(bank)["bell"] == adapters(tmp_path / "alone")["bell"]


def replaced(draft: Draft, memory: NewMemory) -> Draft:
    return msgspec.structs.replace(draft, memory=memory, text_digest=text_digest(memory))


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


def test_where_memories_come_from_is_kept_and_it_is_told_when_all_are_stored(
    tmp_path: Path, tiny: Path
) -> None:
    source = Source("kitchen.md", "ab" * 32, 3, 9)
    sources, states = {MemoryName("default", KETTLE.id): source}, list[str]()

    def stored(catalog: Catalog) -> None:
        states.extend(memory.state for memory in list_memories(catalog).memories)

    bank = tmp_path / "bank"
    for _ in range(2):
        train(bank, [KETTLE, LAMP], str(tiny), f"base:{tiny}", QUICK, sources=sources, stored=stored)
    assert states == ["pending", "pending", "ready", "ready"]
    with open_catalog(bank) as catalog:
        found = {memory.id: (memory.source, memory.newest) for memory in list_memories(catalog).memories}
    assert found == {"kettle": (source, 1), "lamp": (None, 1)}
