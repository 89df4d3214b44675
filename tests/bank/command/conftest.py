"""`vllm-mega bank` on a bank of an invented base model and embedder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bank.command.running import InventedEmbedder, Run
from tests.bank.samples import BASE, SHAPES, key, write_adapter
from tests.banks import Item, make_bank
from vllm_mega import cli, models
from vllm_mega.bank.layout import NewMemory
from vllm_mega.gate import embedder as embedder_module
from vllm_mega.models import base_weights


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with ann/first and default/second, of models that exist in these tests only."""
    monkeypatch.setattr(models, "resolve_recorded", lambda given, made: tmp_path / (given or made))
    monkeypatch.setattr(models, "resolve_model", lambda name: tmp_path / name)
    monkeypatch.setattr(embedder_module, "resolve_embedder", lambda name: tmp_path / name)
    monkeypatch.setattr(
        models, "fingerprint", lambda path: BASE.fingerprint if path.name == BASE.name else f"of {path.name}"
    )
    monkeypatch.setattr(base_weights, "linear_shapes", lambda path: SHAPES)
    monkeypatch.setattr(embedder_module, "load_embedder", InventedEmbedder)
    first = NewMemory("The lamp of first burns 1 nights.", id="first", namespace="ann", title="Lamp")
    second = NewMemory("The lamp of second burns 2 nights.", id="second", tags=("light",))
    items = [
        Item(memory, write_adapter(tmp_path / f"made-{n}", n), key(n))
        for n, memory in enumerate((first, second), 1)
    ]
    make_bank(tmp_path / "bank", items)
    return tmp_path / "bank"


@pytest.fixture
def run(bank: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an action on the bank: exit code, stdout, stderr."""

    def run(action: str, *words: object) -> tuple[int, str, str]:
        code = cli.main(["bank", action, "--bank", str(bank), *map(str, words)])
        return (code, *capsys.readouterr())

    return run
