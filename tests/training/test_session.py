from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.forks import PROCESSES
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.verify import verify
from vllm_mega.errors import BankMismatchError, ModelError, TrainingError
from vllm_mega.gate.embedder import BaseModelEmbedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.models import DEFAULT_EMBEDDER, linear_shapes
from vllm_mega.training import scale_out, session
from vllm_mega.training.job import Fit, Job
from vllm_mega.training.recipe import EndRules
from vllm_mega.training.session import Failed, Trained, TrainReport, prepare, train
from vllm_mega.training.trainer import Trainer

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


def adapters(bank: Path) -> dict[str, str]:
    return {entry.id: entry.adapter for entry in BankReader(bank).snapshot().manifest.memories}


def test_memories_become_adapters(tmp_path: Path, tiny: Path) -> None:
    told: list[tuple[int, int, Trained | None]] = []
    report = train(tmp_path / "bank", ALL, str(tiny), f"base:{tiny}", QUICK, lambda *args: told.append(args))
    snapshot = BankReader(tmp_path / "bank").snapshot()
    assert [entry.id for entry in snapshot.manifest.memories] == ["kettle", "lamp", "bell"]
    assert verify(tmp_path / "bank", linear_shapes(tiny)) == []
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [one.id for one in report.trained] == ["kettle", "lamp", "bell"]
    entry = snapshot.get("default", "kettle")
    assert snapshot.text(entry) == KETTLE
    assert entry.rank == QUICK.rank
    assert (entry.training["steps"], entry.training["seed"]) == (4, 0)


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
    before = BankReader(bank).snapshot()
    changed = msgspec.structs.replace(KETTLE, text="Nine geese count copper.")
    report = run(bank, tiny, (changed, BELL))
    assert ([one.id for one in report.trained], report.skipped) == (["kettle"], 1)
    after = BankReader(bank).snapshot()
    assert after.get("default", "kettle").version > before.get("default", "kettle").version
    assert after.text(after.get("default", "kettle")) == changed

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


def _slowly(told: Connection, bank: Path, tiny: Path) -> None:
    torch.set_num_threads(1)

    def progress(done: int, _total: int, _last: Trained | None) -> None:
        told.send(done)
        time.sleep(0.2)  # so that the kill comes between any two steps

    train(bank, ALL, str(tiny), f"base:{tiny}", QUICK, progress)


def start(bank: Path, tiny: Path) -> tuple[BaseProcess, Connection]:
    """A training process, and what tells how many memories are done.

    All that are compared are processes of their own: an engine that ran in this one has changed how torch
    uses threads, and with that the last bits of sums. They are forks of one that has imported what they need.
    """
    heard, told = PROCESSES.Pipe(False)
    process = PROCESSES.Process(target=_slowly, args=(told, bank, tiny))
    process.start()
    told.close()
    return process, heard


def finish(bank: Path, tiny: Path) -> dict[str, str]:
    process, heard = start(bank, tiny)
    with heard:
        process.join()
    assert process.exitcode == 0
    return adapters(bank)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, str]:
    """The adapters of a run that nobody kills."""
    return finish(tmp_path_factory.mktemp("whole") / "bank", tiny)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_at_any_moment_the_next_run_goes_on(
    tmp_path: Path, tiny: Path, whole: dict[str, str], after: int
) -> None:
    bank = tmp_path / "bank"
    process, heard = start(bank, tiny)
    with heard:
        while heard.recv() < after:
            pass
        time.sleep(0.05 * after)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL

    done = adapters(bank)
    assert len(done) >= after
    generation = BankReader(bank).snapshot().generation
    finished = finish(bank, tiny)
    assert BankReader(bank).snapshot().generation == generation + 3 - len(done), (
        "what was there was trained again"
    )
    assert done.items() <= finished.items()
    assert verify(bank, linear_shapes(tiny)) == []
    assert finished == whole


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
    snapshot = BankReader(tmp_path / "bank").snapshot()
    expected = BaseModelEmbedder(str(tiny)).embed([memory.text for memory in ALL])
    np.testing.assert_array_equal(snapshot.keys, expected)


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
    entry = BankReader(tmp_path).snapshot().get("default", "kettle")
    assert entry.links == ("lamp",)
    generation = BankReader(tmp_path).snapshot().manifest.generation
    run(tmp_path, tiny, (linked,))
    assert BankReader(tmp_path).snapshot().manifest.generation == generation


def test_changed_tags_are_set_without_training(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, tiny, ALL)
    first, reader = adapters(tmp_path), BankReader(tmp_path)
    before = reader.snapshot().manifest.generation
    monkeypatch.setattr(scale_out, "Trainer", None)  # not even loaded
    tagged = msgspec.structs.replace(KETTLE, tags=("brass", "dawn"))
    report = run(tmp_path, tiny, (tagged, LAMP))
    assert (report.trained, report.skipped) == ([], 2)
    assert reader.snapshot().get("default", "kettle").tags == ("brass", "dawn"), (
        "an open reader does not see it"
    )
    assert reader.snapshot().text(reader.snapshot().get("default", "kettle")) == tagged
    assert reader.snapshot().manifest.generation == before + 1
    run(tmp_path, tiny, (tagged, LAMP))
    assert reader.snapshot().manifest.generation == before + 1
    run(tmp_path, tiny, (KETTLE,))
    assert reader.snapshot().get("default", "kettle").tags == ()
    assert adapters(tmp_path) == first
    assert verify(tmp_path, linear_shapes(tiny)) == []


def test_tags_are_in_no_adapter(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bare", tiny, (BELL,))
    run(tmp_path / "tagged", tiny, (msgspec.structs.replace(BELL, tags=("copper",), links=("lamp",)),))
    assert adapters(tmp_path / "bare") == adapters(tmp_path / "tagged")


def test_it_is_told_why_a_memory_is_trained_again(tmp_path: Path, tiny: Path) -> None:
    assert [one.why for one in run(tmp_path, tiny, (KETTLE, LAMP)).trained] == ["new", "new"]
    entry = BankReader(tmp_path).snapshot().get("default", "kettle")
    assert entry.recipe == prepare(tmp_path, ALL, str(tiny), f"base:{tiny}", QUICK).recipe.digest
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
    monkeypatch.setattr(scale_out, "Trainer", OneFails)
    settings = msgspec.structs.replace(QUICK, jobs=jobs)
    linked = msgspec.structs.replace(LAMP, links=("bell",))
    report = run(tmp_path / "bank", tiny, (KETTLE, linked, BELL), settings)
    assert report.failed == [Failed("default", "lamp", "the loss is not finite")]
    assert [one.id for one in report.trained] == ["kettle", "bell"]
    assert set(adapters(tmp_path / "bank")) == {"kettle", "bell"}
    monkeypatch.undo()
    later = run(tmp_path / "bank", tiny, (KETTLE, linked, BELL), settings)
    assert ([one.id for one in later.trained], later.skipped) == (["lamp"], 2)


def test_when_every_training_fails_it_is_an_error(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale_out, "Trainer", OneFails)
    with pytest.raises(TrainingError, match=r"no memory could be trained:\n  default/lamp: the loss"):
        run(tmp_path / "bank", tiny, (LAMP,))


def test_a_training_that_gives_a_bad_adapter_costs_no_other(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = session.export
    seen: dict[float, int] = {}

    def spoil(folder: Path, tensors: dict[str, Tensor], *args: object) -> None:
        numbers = float(next(iter(tensors.values())).sum())
        if seen.setdefault(numbers, len(seen)) == 1:
            tensors = {name: tensor * float("nan") for name, tensor in tensors.items()}
        export(folder, tensors, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "export", spoil)
    report = run(tmp_path / "bank", tiny, ALL, msgspec.structs.replace(QUICK, jobs=3))
    assert "finite" in report.failed[0].reason
    assert len(report.trained) == len(adapters(tmp_path / "bank")) == 2
    assert verify(tmp_path / "bank", linear_shapes(tiny)) == []
