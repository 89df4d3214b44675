"""Memories in, adapters in the bank: the whole of a training, with the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.banks import adapters, newest, problems
from tests.training.sessions import ALL, QUICK, content, run
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.keys import read_keys
from vllm_mega.bank.catalog.reading import list_memories
from vllm_mega.bank.catalog.records import MemoryName, Source
from vllm_mega.errors import BankMismatchError, ModelError
from vllm_mega.gate.embedder import BaseModelEmbedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.models import DEFAULT_EMBEDDER, linear_shapes
from vllm_mega.training.run.outcome import Trained
from vllm_mega.training.run.session import train


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
