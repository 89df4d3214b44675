"""What a dry run says is what training does: bytes, products, memory; and it leaves no trace."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.library import Library
from vllm_mega.cli import main
from vllm_mega.errors import BankError, BankMismatchError, TrainingError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.training.recipe.job import Fit
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run import estimate, plan
from vllm_mega.training.run import outlook as module
from vllm_mega.training.run.crew import LocalFitter
from vllm_mega.training.run.estimate import Shape, Tokens, flops, most_jobs, peak_bytes
from vllm_mega.training.run.outlook import checkpoint_shape, outlook, seconds_of, tokens_of
from vllm_mega.training.run.plan import prepare
from vllm_mega.training.run.session import train

MEMORIES = (KETTLE, LAMP, BELL)
QUICK = msgspec.structs.replace(SETTINGS, max_steps=2)
LARGE = Shape(
    total=8_030_261_248, below=4_580_179_968, above=2_222_981_120, last=176_160_768,
    adapted=1_937_768_448, largest=58_720_256, adapter=2_433_024, saved=11 * 94_208, hidden=4096,
    vocabulary=128_256,
)  # fmt: skip
TOKENS = Tokens(lead=20, pool=2000, step=450, labels=90, recital=120, text=60)


@pytest.fixture(autouse=True)
def fake_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "load_embedder", lambda *_, **__: FakeEmbedder(8))
    monkeypatch.setattr(plan, "bank_embedder", lambda *_, **__: FakeEmbedder(8))
    monkeypatch.setattr(module, "PROBE", 0.01)


def test_bytes_are_those_of_the_adapters_in_the_bank(tmp_path: Path, tiny: Path) -> None:
    seen = outlook(tmp_path / "bank", MEMORIES, str(tiny), settings=QUICK)
    assert not (tmp_path / "bank").exists()
    assert (seen.missing, seen.there, seen.jobs) == (3, 0, 3)
    train(tmp_path / "bank", MEMORIES, str(tiny), settings=QUICK)
    with Library(tmp_path / "bank") as library:
        for row in library.rows.values():
            # The file has a header beside the tensors.
            assert seen.bytes_each <= library.version(row).adapter_bytes <= seen.bytes_each + 8192
    again = outlook(tmp_path / "bank", MEMORIES, str(tiny), settings=QUICK)
    assert (again.missing, again.there) == (0, 3)


def test_products_are_those_that_the_trainer_counts(tmp_path: Path, tiny: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, max_steps=24, jobs=3, layers=2)
    made = prepare(tmp_path, MEMORIES, str(tiny), settings=settings)
    tokens = tokens_of(made.missing, made.chat, made.recipe)
    wanted = flops(checkpoint_shape(made), tokens, made.recipe)
    fitter = LocalFitter(tiny, made.recipe)
    steps = sum(fit.steps for fit in fitter.fit(MEMORIES) if isinstance(fit, Fit)) / 3
    # The trainer counts neither turning A nor asking at the end, and its candidates are as they come.
    counted = wanted.once + steps * wanted.step
    assert fitter.trainer.flops / 3 == pytest.approx(counted, rel=0.15)


def test_the_shape_is_that_of_the_model(tmp_path: Path, tiny: Path) -> None:
    shape = checkpoint_shape(prepare(tmp_path, MEMORIES, str(tiny), settings=SETTINGS))
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    layers = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) for layer in model.model.layers]
    assert shape.total == sum(p.numel() for p in model.parameters())
    last = sum(p.numel() for p in model.model.layers[2].mlp.parameters())
    assert (shape.below, shape.above, shape.last) == (layers[0], layers[1] + layers[2] - last, last)
    assert shape.adapted == shape.above + shape.last
    assert (shape.vocabulary, shape.hidden) == model.get_output_embeddings().weight.shape


def test_memory_grows_with_what_is_trained_side_by_side() -> None:
    settings = Recipe()
    one, eight = (
        peak_bytes(LARGE, TOKENS, msgspec.structs.replace(settings, jobs=jobs), 2) for jobs in (1, 8)
    )
    assert 2 * LARGE.total < one < eight
    assert most_jobs(LARGE, TOKENS, settings, 2, eight) == 8
    assert most_jobs(LARGE, TOKENS, settings, 2, (one + eight) / 2) in range(2, 8)
    assert most_jobs(LARGE, TOKENS, settings, 2, one - 1) == 0


def test_a_memory_costs_what_its_parts_cost() -> None:
    parts = flops(LARGE, TOKENS, Recipe())
    lead = 2 * TOKENS.lead * (LARGE.below + LARGE.above + LARGE.last) / Recipe().jobs
    assert parts.once == 2 * TOKENS.pool * LARGE.below + lead
    assert parts.step == pytest.approx(4 * TOKENS.step * LARGE.above, rel=0.1)
    assert parts.memory(24) - parts.memory(23) == pytest.approx(parts.step)
    assert parts.memory(estimate.STEPS) > 24 * parts.step


def test_a_dry_run_refuses_what_training_refuses(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="given 2 times"):
        outlook(tmp_path / "bank", [KETTLE, KETTLE], str(tiny), settings=QUICK)
    train(tmp_path / "bank", [KETTLE], str(tiny), settings=QUICK)
    monkeypatch.setattr(plan, "bank_embedder", lambda *_, **__: FakeEmbedder(9))
    with pytest.raises(BankMismatchError, match="was made with the embedder"):
        outlook(tmp_path / "bank", [LAMP], str(tiny), settings=QUICK)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(BankError, match="Make room"):
        outlook(tmp_path / "new" / "bank", [LAMP], str(tiny), settings=QUICK)


def test_the_command_prints_and_loads_no_weights(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    lines = b"\n".join(msgspec.json.encode(memory) for memory in MEMORIES)
    (tmp_path / "in.jsonl").write_bytes(lines)
    words = [
        "train", "--dry-run", "--bank", str(tmp_path / "bank"), "--input", str(tmp_path / "in.jsonl"),
        "--model", str(tiny), "--rank", "4", "--layers", "1",
    ]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "memories: 3 to train (3 new), 0 there already" in out
    assert "bytes: 3 KiB a memory" in out
    assert "with 3 side by side" in out
    assert "too little" not in out
    assert "time: about" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    monkeypatch.setattr(module, "free_bytes", lambda _: 1e6)
    assert main(words) == 0
    assert "too little even for --jobs 1" in capsys.readouterr().out
    monkeypatch.setattr(module, "most_jobs", lambda *_: 2)
    assert main(words) == 0
    assert "too little, choose --jobs 2" in capsys.readouterr().out


def test_a_gpu_takes_as_long_as_one_was_measured_to() -> None:
    """Llama-3.1-8B's shape, 24 steps, on an H200: 1, 4 and 8 memories side by side."""
    for jobs, products, measured in ((1, 117e12, 3.11), (4, 107e12, 0.97), (8, 107e12, 0.76)):
        settings = Recipe(jobs=jobs, layers=11)
        assert seconds_of(products, 782e12, "cuda", settings, 24) == pytest.approx(measured, rel=0.2)
