"""A bank, looked at quickly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.bank.samples import key, write_adapter
from tests.banks import Item, make_bank
from tests.models.checkpoints import weights, write_checkpoint
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.tables import versions
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
from vllm_mega.doctor.bank import Asked, bank, contents
from vllm_mega.doctor.finding import Finding, examined
from vllm_mega.models import BASE_PREFIX, fingerprint

SERVE = Finding("serve", "ok", "it would")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def root(tmp_path: Path, model: Path) -> Path:
    """A bank of one memory with an adapter and one without, whose embedder is made of its model."""
    base = BaseModelInfo(str(model), fingerprint(model))
    embedder = EmbedderInfo(BASE_PREFIX + base.name, BASE_PREFIX + base.fingerprint, 8)
    ready = Item(NewMemory("The ferry is red.", id="ferry"), write_adapter(tmp_path / "a"), key(1))
    waits = Item(NewMemory("The owl is grey.", id="owl"), key=key(2))
    make_bank(tmp_path / "bank", [ready, waits], base=base, embedder=embedder)
    return tmp_path / "bank"


def look(asked: Asked) -> dict[str, Finding]:
    def serve() -> Iterator[Finding]:
        yield SERVE

    return {one.name: one for one in examined("bank", lambda: bank(asked, serve))}


def test_a_good_bank(root: Path) -> None:
    found = look(Asked(root))
    assert list(found) == ["bank", "catalog", "adapters", "base model", "embedder", "serve"]
    assert {one.status for one in found.values()} == {"ok"}, found
    assert found["bank"].found == "2 memories (1 pending, 1 ready)"


def test_no_bank(tmp_path: Path) -> None:
    found = look(Asked(tmp_path))
    assert list(found) == ["bank"]
    assert found["bank"].status == "problem"
    assert "is not a bank" in found["bank"].found


@pytest.mark.parametrize(
    ("counts", "answered", "status", "found"),
    [
        ({"pending": 0, "ready": 0}, 0, "warning", "0 memories, none with an adapter"),
        ({"pending": 3, "ready": 0}, 0, "warning", "3 memories (3 pending), none with an adapter"),
        ({"ready": 2, "failed": 1}, 2, "warning", "3 memories (2 ready, 1 failed)"),
    ],
)
def test_contents(counts: dict[str, int], answered: int, status: str, found: str) -> None:
    finding = contents(counts, answered)
    assert (finding.status, finding.found) == (status, found)
    assert finding.change


def test_an_adapter_that_is_gone(root: Path) -> None:
    (adapter,) = (root / "adapters").glob("*/*")
    shutil.rmtree(adapter)
    finding = look(Asked(root))["adapters"]
    assert (finding.status, finding.found) == ("problem", f"1 are missing, such as {adapter.name}")


def test_a_catalog_that_contradicts_itself(root: Path) -> None:
    with open_catalog(root) as catalog:
        catalog.database.write(
            lambda connection: connection.execute(sa.update(versions).values(key=b"short"))
        )
    finding = look(Asked(root))["catalog"]
    assert finding.status == "problem"
    assert finding.found.startswith("2 problems: key default/ferry: of version 1: 5 bytes, not 32")


def test_another_model_is_refused_and_its_embedder_with_it(root: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", {name: 2 * value for name, value in weights().items()})
    found = look(Asked(root, model=str(other)))
    assert found["base model"].status == found["embedder"].status == "problem"
    assert "was made for the base model" in found["base model"].found
    assert "was made with the embedder" in found["embedder"].found


def test_a_model_that_has_moved(root: Path, model: Path, tmp_path: Path) -> None:
    model.rename(tmp_path / "moved")
    found = look(Asked(root))
    assert (found["base model"].status, found["embedder"].status) == ("problem", "problem")
    assert "serve" not in found, "it would download, or say the same again"
    found = look(Asked(root, model=str(tmp_path / "moved")))
    assert {one.status for one in found.values()} == {"ok"}, found
