"""What can refuse a memory is asked of all of them before one is trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import EmbedderInfo, NewMemory
from vllm_mega.errors import BankError, ModelError, TrainingError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.models import linear_shapes
from vllm_mega.training.run import plan
from vllm_mega.training.run.preflight import adapter_bytes, preflight, require_space

LINKED = NewMemory(text="Geese count.")
"""Its id follows from its text: only then is it known that a link leads to itself."""


class Embedder(FakeEmbedder):
    """Texts with "zero" or "nan" in them have keys of that."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = super().embed(texts)
        for row, text in enumerate(texts):
            if "zero" in text:
                vectors[row] = 0
            if "nan" in text:
                vectors[row, 1] = np.nan
        return vectors


def longest(memory: NewMemory) -> int:
    if "unsayable" in memory.text:
        raise TrainingError("has a control token")
    return len(memory.text)


def check(*memories: NewMemory, there: Sequence[NewMemory] = ()) -> np.ndarray:
    return preflight(memories, there, Embedder(8), longest, 100)


def test_the_keys_are_those_of_the_embedder() -> None:
    found = check(KETTLE, LAMP, there=[BELL])
    np.testing.assert_array_equal(found, FakeEmbedder(8).embed([KETTLE.text, LAMP.text]))
    assert check().shape[0] == 0


def test_all_problems_are_told_together() -> None:
    linked = msgspec.structs.replace(LINKED, links=(memory_id(LINKED),))
    nameless = NewMemory(text="all zero here, and far too long to be said in one go: " + "word " * 20)
    with pytest.raises(TrainingError) as refusal:
        check(
            KETTLE,
            NewMemory(text="a nan in it", id="first"),
            NewMemory(text="unsayable", id="second"),
            nameless,
            LAMP,
            LAMP,
            there=[linked],
        )
    lines = str(refusal.value).splitlines()
    assert lines[0].startswith("5 of 6 memories cannot be trained, so none was")
    assert lines[1] == (
        "  default/first: its key from the embedder: expected finite values, found NaN or infinity "
        "(--embedder names another)"
    )
    assert lines[2] == "  default/second: has a control token"
    assert '("all zero here, and far too long to be sa...")' in lines[3]
    assert "154 tokens, and the model reads 100" in lines[3]
    assert "; its key from the embedder: expected unit length, found 0" in lines[3]
    assert lines[4] == "  default/lamp: given 2 times: give each one once"
    assert lines[5].startswith("  default/m-")
    assert lines[5].endswith("names the memory itself: leave it out")
    assert len(lines) == 6


def test_what_the_model_lacks_is_no_fault_of_a_memory() -> None:
    def no_template(_: NewMemory) -> int:
        raise ModelError("the model has no chat template")

    with pytest.raises(ModelError, match=r"^the model has no chat template$"):
        preflight([KETTLE, LAMP], [], FakeEmbedder(8), no_template, 100)


def test_vectors_of_another_dimension() -> None:
    embedder = Embedder(8)
    embedder._info = EmbedderInfo("fake", "f", 9)
    embedder.embed = lambda texts: np.ones((len(texts), 8), np.float32)  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"expected shape \(9,\), found \(8,\)"):
        preflight([KETTLE], [], embedder, longest, 100)


def test_bytes_are_those_of_the_tensors(tmp_path: Path, tiny: Path) -> None:
    shapes = linear_shapes(tiny)
    settings = msgspec.structs.replace(SETTINGS, modules=("up_proj", "down_proj"), layers=2, rank=4)
    assert adapter_bytes(shapes, settings) == 2 * 4 * 2 * 2 * (48 + 64)
    assert adapter_bytes(shapes, msgspec.structs.replace(settings, dtype="float32", layers=9)) == (
        3 * 4 * 2 * 4 * (48 + 64)
    )


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000_000))
    require_space(tmp_path, 10, 1_000_000)
    with pytest.raises(BankError, match=r"11 memories need about 13 MB, 12 MB are free\. .*--limit"):
        require_space(tmp_path, 11, 1_000_000)


def test_what_nothing_refuses_is_told_before_training_by_name(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plan, "load_embedder", lambda *_, **__: FakeEmbedder(8))
    twins = [msgspec.structs.replace(BELL, id=name) for name in ("one", "two")]
    with caplog.at_level("WARNING"):
        plan.prepare(
            tmp_path, [KETTLE, *twins, NewMemory("geese count", id="note")], str(tiny), settings=SETTINGS
        )
    assert "warning: for the embedder fake everything is near" in caplog.text
    assert "nearly coincide" in caplog.text
    assert "default/one and two (1.00)" in caplog.text
    assert "fewer" in caplog.text
    assert "default/note" in caplog.text
    assert "geese" not in caplog.text
