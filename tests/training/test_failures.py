"""A training that fails costs no other, and is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.banks import adapters, problems, row
from tests.training.sessions import ALL, QUICK, OneFails, run
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.errors import TrainingError
from vllm_mega.models import linear_shapes
from vllm_mega.training.run import crew, publishing
from vllm_mega.training.run.outcome import Failed


def test_one_bad_memory_costs_no_other(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # told before the model is loaded
    long = msgspec.structs.replace(LAMP, text="nine geese count copper bells " * 60)
    with pytest.raises(TrainingError, match=r"1 of 2 memories .*\n  default/lamp: .* the model reads 256"):
        run(tmp_path / "bank", tiny, (KETTLE, long))
    assert not (tmp_path / "bank").exists()


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
