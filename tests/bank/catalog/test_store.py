"""Adapters beside the catalog: placed whole or not at all, and gone when nothing names them, not before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.bank.catalog.invented import WHO, draft, name, placed
from tests.bank.failing_disk import FailingDisk, PowerCut, QuickDisk
from tests.bank.samples import SHAPES, write_adapter
from vllm_mega.bank import files
from vllm_mega.bank.adapter import adapter_digest, check_adapter
from vllm_mega.bank.catalog import store
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, put
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.store import adapter_folder, named, on_disk, place, remove_free, sweep
from vllm_mega.errors import AdapterError, BankError, BankFormatError


def test_an_adapter_is_where_its_digest_says(catalog: Catalog, tmp_path: Path) -> None:
    trained = placed(catalog, tmp_path, recipe="r", training={"steps": 3})
    folder = adapter_folder(catalog, trained.adapter)
    assert folder == catalog.root / "adapters" / trained.adapter[:2] / trained.adapter
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert adapter_digest(folder) == trained.adapter
    assert (trained.bytes, trained.rank, trained.recipe) == (
        sum(p.stat().st_size for p in folder.iterdir()),
        2,
        "r",
    )
    assert list((catalog.root / "staging").iterdir()) == []


def test_what_nothing_names_is_swept_and_nothing_else(catalog: Catalog, tmp_path: Path) -> None:
    named_one, claimed_one = placed(catalog, tmp_path, 1), placed(catalog, tmp_path, 2)
    add(catalog, [draft(trained=named_one)], WHO)
    put(catalog, [draft(nights=2)], WHO)
    orphan = write_adapter(catalog.root / "adapters" / "ab" / ("ab" + "0" * 62), 5)
    (catalog.root / "staging" / "left").mkdir()
    assert sweep(catalog) == 2
    assert on_disk(catalog) == {named_one.adapter, claimed_one.adapter}
    assert (orphan.exists(), list((catalog.root / "staging").iterdir())) == (False, [])
    assert sweep(catalog) == 0
    forget(catalog, [name()], WHO)
    assert on_disk(catalog) == {claimed_one.adapter}


def test_a_claim_on_the_same_bytes_keeps_them(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft(trained=placed(catalog, tmp_path, 1))], WHO)
    again = placed(catalog, tmp_path, 1)
    forget(catalog, [name()], WHO)
    assert on_disk(catalog) == {again.adapter}
    add(catalog, [draft("other", trained=again)], WHO)
    assert named(catalog) == on_disk(catalog) == {again.adapter}
    assert check(catalog, SHAPES) == []


def test_bytes_are_looked_at_under_the_lock(catalog: Catalog, tmp_path: Path) -> None:
    """Somebody saw an adapter that nothing names; before he acts, somebody else names it."""
    trained = placed(catalog, tmp_path)
    seen = on_disk(catalog) - named(catalog)
    add(catalog, [draft(trained=trained)], WHO)
    assert remove_free(catalog, seen) == 0
    assert adapter_folder(catalog, trained.adapter).is_dir()


def test_a_broken_adapter_gives_way_to_a_whole_one(catalog: Catalog, tmp_path: Path) -> None:
    trained = placed(catalog, tmp_path)
    add(catalog, [draft(trained=trained)], WHO)
    weights = adapter_folder(catalog, trained.adapter) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    [problem] = check(catalog)
    assert (problem.kind, problem.where) == ("adapter", f"adapters/{trained.adapter[:2]}/{trained.adapter}")
    placed(catalog, tmp_path)
    assert check(catalog, SHAPES) == [check(catalog, SHAPES)[0]]
    sweep(catalog)
    assert check(catalog, SHAPES) == []


def test_an_adapter_that_changes_meanwhile_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source", 1)
    facts = check_adapter(source, SHAPES)
    write_adapter(source, 2)
    with pytest.raises(AdapterError, match="changed while it was placed"):
        place(catalog, source, facts)
    assert on_disk(catalog) == set()


def test_paths_stay_inside(catalog: Catalog, tmp_path: Path) -> None:
    for bad in ("../../etc", "A" * 64, ""):
        with pytest.raises(BankError, match="expected the digest of an adapter"):
            adapter_folder(catalog, bad)
    (tmp_path / "elsewhere").mkdir()
    (catalog.root / "adapters" / "ab").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BankFormatError, match="leads out of the bank"):
        adapter_folder(catalog, "ab" + "0" * 62)


def publish_one(catalog: Catalog, source: Path) -> None:
    trained = place(catalog, source, check_adapter(source, SHAPES))
    add(catalog, [draft("new", 2, trained=trained)], WHO)


def test_a_power_cut_at_any_step_leaves_no_half_adapter(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Place, name, forget; the disk dies at each of its steps, and forgets what nobody has synced."""
    source = write_adapter(tmp_path / "source", 1)
    at = 0
    while True:
        at += 1
        disk = FailingDisk(tmp_path / "spare", at)
        monkeypatch.setattr(files, "os", disk)
        try:
            publish_one(catalog, source)
            forget(catalog, [name("new")], WHO)
            break
        except PowerCut:
            disk.lose_unsynced()
        monkeypatch.setattr(files, "os", QuickDisk())
        assert {p.kind for p in check(catalog, SHAPES)} <= {"orphan", "staging"}
        with catalog.database.read():
            known = named(catalog)
        if known:
            forget(catalog, [name("new")], WHO)
        sweep(catalog)
    assert at > 10
    assert named(catalog) == set()


def test_a_full_disk_is_told(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_adapter(tmp_path / "source", 1)
    full = FailingDisk(
        tmp_path / "spare", 3, dies=False, error=lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    )
    monkeypatch.setattr(files, "os", full)
    with pytest.raises(BankError, match="No space left"):
        publish_one(catalog, source)
    monkeypatch.setattr(files, "os", os)
    publish_one(catalog, source)
    assert [problem.kind for problem in check(catalog, SHAPES)] in ([], ["staging"])
    assert store.sweep(catalog) <= 1
