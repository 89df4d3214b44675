"""What a reader sees of a bank, and whom it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.bank.samples import BASE, EMBEDDER, key, write_adapter
from tests.banks import Item, forget, make_bank
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.catalog.records import MemoryName, Row
from vllm_mega.bank.layout import EmbedderInfo, NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.errors import (
    BankFormatError,
    BankMismatchError,
    BankNotFoundError,
    MemoryNotFoundError,
    MemoryNotReadyError,
)

LAMP = NewMemory("The lamp burns nine nights.", id="lamp", title="Lamp", tags=("light",), links=("ferry",))


class Heard:
    """Notes which keys came and went."""

    def __init__(self) -> None:
        self.keys: dict[MemoryName, npt.NDArray[np.float32]] = {}

    def put(self, rows: Sequence[Row], keys: npt.NDArray[np.float32]) -> None:
        self.keys.update(zip((row.name for row in rows), keys, strict=True))

    def drop(self, names: Sequence[MemoryName]) -> None:
        for name in names:
            self.keys.pop(name, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_bank(tmp_path / "bank", [Item(LAMP, write_adapter(tmp_path / "adapter", 3), key(3))])
    return tmp_path / "bank"


def test_a_memory_its_adapter_and_its_text(root: Path) -> None:
    with Library(root) as library:
        row = library.get("default", "lamp")
        assert (row.version, row.state, row.title, row.tags, row.links) == (
            1, "ready", "Lamp", ("light",), ("ferry",),
        )  # fmt: skip
        assert list(library.rows) == [("default", "lamp")]
        assert adapter_digest(library.folder(row)) == row.adapter
        assert library.folder(row).is_relative_to(root)
        assert library.version(row).text == LAMP.text
        assert (library.settings.base, library.settings.embedder) == (BASE, EMBEDDER)


def test_changes_come_with_refresh_and_not_before(root: Path) -> None:
    heard = Heard()
    with Library(root, keys=heard) as library:
        before = library.event
        make_bank(root, [Item(NewMemory("Four oxen pull it.", id="ferry"), key=key(4))])
        forget(root, ("default", "lamp"))
        assert set(library.rows) == {("default", "lamp")}
        assert library.refresh() == 2
        assert (set(library.rows), library.event) == ({("default", "ferry")}, before + 2)
        assert list(heard.keys) == [("default", "ferry")]
        assert np.array_equal(heard.keys[MemoryName("default", "ferry")], key(4))
        assert library.refresh() == 0


def test_a_memory_without_an_adapter_says_its_state(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank", [Item(LAMP)])
    with (
        Library(tmp_path / "bank") as library,
        pytest.raises(MemoryNotReadyError, match=r"default/lamp .*is pending"),
    ):
        library.folder(library.get("default", "lamp"))


def test_what_is_not_there_is_told(root: Path) -> None:
    with Library(root) as library:
        row = library.get("default", "lamp")
        with pytest.raises(MemoryNotFoundError, match="namespace 'navy' has no memory 'lamp'"):
            library.get("navy", "lamp")
        forget(root, ("default", "lamp"))
        with pytest.raises(MemoryNotFoundError, match="'lamp'"):
            library.version(row)
    with pytest.raises(BankNotFoundError):
        Library(root / "elsewhere")


def test_an_old_bank_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BankFormatError, match=r"old format \(manifest.json\).* make a new bank") as caught:
        Library(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fingerprint", "embedder", "told"),
    [
        ("base-2", None, "fingerprint base-1.*fingerprint base-2"),
        (None, EmbedderInfo("other", "embedder-2", 8), "embedder-1, D=8.*embedder-2, D=8"),
        (None, EmbedderInfo("other", "embedder-1", 9), "embedder-1, D=8.*embedder-1, D=9"),
    ],
)
def test_another_model_is_refused(
    root: Path, fingerprint: str | None, embedder: EmbedderInfo | None, told: str
) -> None:
    with pytest.raises(BankMismatchError, match=told):
        Library(root, base_fingerprint=fingerprint, embedder=embedder)
    Library(root, base_fingerprint="base-1", embedder=EMBEDDER).close()
