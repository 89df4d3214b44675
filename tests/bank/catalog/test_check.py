"""Every kind of damage is found, and a healthy bank has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.bank.catalog.invented import WHO, draft, name, placed
from tests.bank.samples import SHAPES
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, put
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.jobs import fail, lease
from vllm_mega.bank.catalog.records import Trained
from vllm_mega.bank.catalog.store import adapter_folder


@pytest.fixture
def trained(catalog: Catalog, tmp_path: Path) -> Trained:
    """The adapter of one memory among others, in every state."""
    made = placed(catalog, tmp_path)
    add(catalog, [draft("a-failed")], WHO)
    for _ in range(3):
        fail(catalog, *lease(catalog, "trainer", 60), "loss")
    add(catalog, [draft(trained=made), draft("b-leased"), draft("waiting")], WHO)
    lease(catalog, "trainer", 60)
    put(catalog, [draft("updated", 3, trained=placed(catalog, tmp_path, 3))], WHO)
    put(catalog, [draft("updated", 4)], WHO)
    return made


def test_a_healthy_bank_has_no_problem(catalog: Catalog, trained: Trained) -> None:
    assert check(catalog, SHAPES) == []


STATE = "UPDATE memories SET state = '{}' WHERE id = '{}'"
OLD_ADAPTER = "UPDATE versions SET adapter = NULL WHERE number = 1 AND text LIKE '%updated%'"
SHORT_KEY = "UPDATE versions SET key = {abc} WHERE text LIKE '%lamp of lamp%'"


@pytest.mark.parametrize(
    ("damage", "kind", "where", "problem"),
    [
        ("DELETE FROM events WHERE number = 2", "events", "", "expected events 1.."),
        ("UPDATE counter SET last = last + 1", "events", "", "expected events 1.."),
        ("UPDATE memories SET newest = 9 WHERE id = 'lamp'", "memory", "lamp", "is missing"),
        ("UPDATE memories SET current = 9 WHERE id = 'lamp'", "memory", "lamp", "is missing"),
        (STATE.format("ready", "waiting"), "memory", "waiting", "state ready"),
        (STATE.format("pending", "lamp"), "memory", "lamp", "state pending"),
        (STATE.format("failed", "b-leased"), "memory", "b-leased", "job is leased"),
        ("UPDATE jobs SET state = 'waiting' WHERE state = 'failed'", "memory", "a-failed", "state failed"),
        (OLD_ADAPTER, "memory", "updated", "answers without an adapter"),
        (SHORT_KEY, "key", "lamp", "of version 1: 3 bytes, not 32"),
    ],
)
def test_what_the_catalog_contradicts_is_found(
    catalog: Catalog, trained: Trained, damage: str, kind: str, where: str, problem: str
) -> None:
    value = "x'616263'" if catalog.database.sqlite else "'abc'::bytea"
    statement = sa.text(damage.replace("{abc}", value))
    catalog.database.write(lambda connection: connection.execute(statement))
    found = [p for p in check(catalog, SHAPES) if p.kind != "orphan"]
    assert [(p.kind, p.where.removeprefix("default/")) for p in found] == [(kind, where)]
    assert problem in found[0].problem


def test_disk_and_catalog_are_compared_in_both_directions(catalog: Catalog, trained: Trained) -> None:
    folder = adapter_folder(catalog, trained.adapter)
    other = folder.with_name(folder.name[:2] + "0" * 62)
    folder.rename(other)
    (catalog.root / "staging" / "left").mkdir()
    (catalog.root / "letters.txt").touch()
    (catalog.root / "adapters" / "ab").mkdir(exist_ok=True)
    (catalog.root / "adapters" / "ab" / "notes").touch()
    found = {(p.kind, p.where) for p in check(catalog)}
    assert found == {
        ("adapter", str(folder.relative_to(catalog.root))),
        ("orphan", str(other.relative_to(catalog.root))),
        ("staging", "staging/left"),
        ("stranger", "letters.txt"),
        ("stranger", "adapters/ab/notes"),
    }


def test_adapters_are_checked_against_the_model(catalog: Catalog, trained: Trained) -> None:
    smaller = {module: (shape[0] + 1, shape[1]) for module, shape in SHAPES.items()}
    assert [p.kind for p in check(catalog, smaller)] == ["adapter", "adapter"]
    assert [p.kind for p in check(catalog, SHAPES, max_rank=1)] == ["adapter", "adapter"]


def test_a_broken_file_is_found(catalog: Catalog, trained: Trained) -> None:
    if not catalog.database.sqlite:
        return
    catalog.database.erase()
    catalog.close()
    path = catalog.root / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    page = data.rindex(b"The lamp of") // 4096 * 4096
    data[page : page + 12] = b"\xff" * 12
    path.write_bytes(data)
    try:
        found = {p.kind for p in check(catalog)}
    except Exception as error:
        found = {type(error).__name__}
    assert found & {"database", "BankFormatError"}


def test_names_of_memories_are_told(catalog: Catalog, trained: Trained) -> None:
    row = sa.text("DELETE FROM versions WHERE text LIKE '%of waiting%'")
    catalog.database.write(lambda connection: connection.execute(row))
    [problem] = check(catalog)
    assert problem.where == "/".join(name("waiting"))
