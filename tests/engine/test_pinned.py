"""Which adapters an engine keeps, by the catalog; no engine here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bank.samples import write_adapter
from tests.banks import Item, make_bank
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import MegaSettings
from vllm_mega.engine.pinned import pinned
from vllm_mega.errors import MemoryNotFoundError, MemoryNotReadyError

LAMP = NewMemory("The lamp burns nine nights.", id="lamp")
FERRY = NewMemory("The ferry has one oar.", id="ferry", namespace="navy")


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    make_bank(
        tmp_path / "bank",
        [
            Item(LAMP, write_adapter(tmp_path / "lamp", 1)),
            Item(FERRY, write_adapter(tmp_path / "ferry", 2)),
            Item(NewMemory("The owl waits.", id="owl")),
        ],
    )
    return tmp_path / "bank"


def test_pinned_memories_are_those_of_the_namespace_as_they_are_now(bank: Path, tmp_path: Path) -> None:
    (lamp,) = pinned(MegaSettings(str(bank), pinned=("lamp",)))
    assert (lamp.adapter, lamp.steps) == (adapter_digest(tmp_path / "lamp"), 0)
    assert adapter_digest(Path(lamp.path)) == lamp.adapter
    (ferry,) = pinned(MegaSettings(str(bank), namespace="navy", pinned=("ferry",)))
    assert ferry.adapter == adapter_digest(tmp_path / "ferry")
    make_bank(bank, [Item(LAMP, write_adapter(tmp_path / "other", 3))])
    (other,) = pinned(MegaSettings(str(bank), pinned=("lamp",)))
    assert other.adapter == adapter_digest(tmp_path / "other")


def test_what_cannot_be_pinned_is_refused(bank: Path) -> None:
    with pytest.raises(MemoryNotFoundError, match="ferry"):
        pinned(MegaSettings(str(bank), pinned=("lamp", "ferry")))
    with pytest.raises(MemoryNotReadyError, match=r"default/owl has no adapter"):
        pinned(MegaSettings(str(bank), pinned=("owl",)))
