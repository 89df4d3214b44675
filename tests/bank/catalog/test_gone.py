"""Parts of memories that no memory has any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bank.samples import write_adapter
from tests.banks import Item, make_bank
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.gone import forgotten_after, gone
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library

LAMP = NewMemory("The lamp burns nine nights.", id="lamp")
NEWER = NewMemory("The lamp burns ten nights.", id="lamp")
TWIN = NewMemory("The lamp burns nine nights.", id="twin", namespace="navy")
OWL = NewMemory("The owl waits.", id="owl")


@pytest.fixture
def made(tmp_path: Path) -> tuple[Catalog, str, str]:
    """A bank of a memory with two versions, another with the adapter of the first, and one without."""
    first, second = (write_adapter(tmp_path / str(n), n) for n in (1, 2))
    make_bank(tmp_path / "bank", [Item(LAMP, first), Item(TWIN, first), Item(OWL)])
    make_bank(tmp_path / "bank", [Item(NEWER, second)])
    return open_catalog(tmp_path / "bank"), adapter_digest(first), adapter_digest(second)


def test_a_part_is_gone_when_no_version_has_it(made: tuple[Catalog, str, str]) -> None:
    catalog, first, second = made
    texts = ["default/lamp/1", "default/lamp/2", "default/owl/1", "navy/twin/1"]
    assert gone(catalog, [first, second, *texts]) == []
    assert gone(catalog, ["f" * 64, "default/lamp/3", "navy/lamp/1", "default/elk/1"]) == [
        "default/elk/1", "default/lamp/3", "f" * 64, "navy/lamp/1",
    ]  # fmt: skip
    receipt = forget(catalog, [MemoryName("default", "lamp")], "mira")
    assert receipt.parts == {first, second, "default/lamp/1", "default/lamp/2"}
    assert gone(catalog, [first, second, *texts]) == sorted([second, "default/lamp/1", "default/lamp/2"])
    catalog.close()


def test_a_text_that_comes_back_has_another_name(made: tuple[Catalog, str, str]) -> None:
    catalog, _, _ = made
    forget(catalog, [MemoryName("default", "owl")], "mira")
    make_bank(catalog.root, [Item(OWL)])
    with Library(catalog.root) as library:
        assert library.get("default", "owl").text_name == "default/owl/2"
    assert gone(catalog, ["default/owl/1", "default/owl/2"]) == ["default/owl/1"]
    catalog.close()


def test_many_are_asked_for_in_parts(made: tuple[Catalog, str, str]) -> None:
    catalog, first, _ = made
    some = [f"default/x/{n}" for n in range(900)] + [f"{n:064x}" for n in range(900)]
    assert set(gone(catalog, [*some, first, "default/owl/1"])) == set(some)
    catalog.close()


def test_whether_something_was_forgotten_since(made: tuple[Catalog, str, str]) -> None:
    catalog, _, _ = made
    assert not forgotten_after(catalog, 0)
    (event,) = forget(catalog, [MemoryName("default", "owl")], "mira").events
    assert forgotten_after(catalog, event.number - 1)
    assert not forgotten_after(catalog, event.number)
    catalog.close()
