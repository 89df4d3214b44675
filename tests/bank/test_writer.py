"""Adding, updating and forgetting, one generation at a time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.bank.samples import BASE, EMBEDDER, SHAPES, files_with, key, staged, write_adapter
from vllm_mega.bank import staged as staged_module
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
from vllm_mega.bank.lock import BankLock
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.verify import verify
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.errors import (
    AdapterError,
    BankError,
    BankFormatError,
    BankLockedError,
    BankMismatchError,
    BankNotFoundError,
    MemoryNotFoundError,
)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """An empty bank."""
    BankWriter.create(tmp_path / "bank", BASE, EMBEDDER).close()
    return tmp_path / "bank"


def contents(bank: Path) -> set[str]:
    return {str(path.relative_to(bank)) for path in bank.rglob("*") if path.is_file()}


def test_an_empty_bank(bank: Path) -> None:
    snapshot = BankReader(bank).snapshot()
    assert (snapshot.generation, snapshot.keys.shape) == (0, (0, 8))
    assert (snapshot.manifest.base, snapshot.manifest.embedder) == (BASE, EMBEDDER)
    assert contents(bank) == {"manifest.json", "keys-0.safetensors", "lock"}
    assert verify(bank, SHAPES) == []


def test_what_is_added_can_be_read(bank: Path, tmp_path: Path) -> None:
    outside = staged(tmp_path / "anywhere", "outside", 1, namespace="ann")
    unnamed = StagedMemory(NewMemory("Rain fell."), write_adapter(tmp_path / "b", 2), key(2))
    with BankWriter.open(bank) as writer:
        inside = staged(writer.stage(), "inside", 3)
        first, second, third = writer.add([outside, unnamed, inside], SHAPES, max_rank=2)
        snapshot = writer.snapshot
    assert BankReader(bank).snapshot().manifest == snapshot.manifest
    assert snapshot.generation == 1
    assert snapshot.manifest.memories == (first, second, third)
    assert second.id.startswith("m-")
    assert (first.version, first.title, first.rank, first.training) == (1, "Lamp", 2, {"seed": 1})
    assert first.adapter == adapter_digest(outside.adapter) == adapter_digest(snapshot.folder(first))
    assert snapshot.text(first) == outside.memory
    assert snapshot.text(second) == msgspec.structs.replace(unnamed.memory, id=second.id)
    np.testing.assert_array_equal(snapshot.keys, [key(1), key(2), key(3)])
    assert outside.adapter.is_dir(), "what lies outside the bank is not ours to delete"
    assert list((bank / "staging").iterdir()) == []
    assert verify(bank, SHAPES) == []


def test_many_at_once_are_one_generation(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        entries = writer.add([staged(writer.stage(), f"m{i}", i) for i in range(50)], SHAPES)
        assert writer.snapshot.generation == 1
        assert writer.add([], SHAPES) == []
        assert writer.snapshot.generation == 1
    assert [entry.id for entry in entries] == [f"m{i}" for i in range(50)]


def test_an_update_is_a_new_version_in_the_same_row_and_the_old_one_is_gone(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.add([staged(writer.stage(), name, seed) for seed, name in enumerate("abc")], SHAPES)
        old = writer.snapshot
        (entry,) = writer.add([staged(writer.stage(), "b", 9)], SHAPES)
        new = writer.snapshot
    assert [e.id for e in new.manifest.memories] == ["a", "b", "c"]
    assert (entry.version, new.get("default", "b")) == (2, entry)
    np.testing.assert_array_equal(new.keys, [key(0), key(9), key(2)])
    assert not old.folder(old.get("default", "b")).exists()
    with pytest.raises(MemoryNotFoundError, match="forgotten or updated after generation 1"):
        old.text(old.get("default", "b"))
    assert not (bank / "keys-1.safetensors").exists()
    assert verify(bank, SHAPES) == []


def test_forgetting_leaves_nothing_on_disk(bank: Path) -> None:
    secret, row = b"hazelnut", key(2).tobytes()
    with BankWriter.open(bank) as writer:
        kept = staged(writer.stage(), "kept", 1)
        gone = staged(writer.stage(), f"{secret.decode()}-id", 2, namespace="ann", text="Buried: hazelnut.")
        weights = (gone.adapter / "adapter_model.safetensors").read_bytes()
        writer.add([kept, gone], SHAPES)
        for trace in (secret, row, weights):
            assert files_with(bank, trace), "the test would find nothing"
        writer.forget([("ann", f"{secret.decode()}-id")])
        for trace in (secret, row, weights, b"ann"):
            assert files_with(bank, trace) == []
        assert [entry.id for entry in writer.snapshot.manifest.memories] == ["kept"]
        np.testing.assert_array_equal(writer.snapshot.keys, [key(1)])
        writer.forget([("default", "kept")])
    assert contents(bank) == {"manifest.json", "keys-3.safetensors", "lock"}
    assert list((bank / "memories").iterdir()) == []
    assert verify(bank, SHAPES) == []


def test_a_path_is_never_used_twice(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        (first,) = writer.add([staged(writer.stage(), "a", 1)], SHAPES)
        writer.forget([first.key])
        (second,) = writer.add([staged(writer.stage(), "a", 2)], SHAPES)
    assert first.folder != second.folder


def test_forgetting_one_of_a_namespace_keeps_the_others(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.add([staged(writer.stage(), name, 1, namespace="ann") for name in "ab"], SHAPES)
        writer.forget([("ann", "a"), ("ann", "a")])
        assert sorted(path.name for path in (bank / "memories" / "ann").iterdir()) == ["b"]
        with pytest.raises(MemoryNotFoundError, match="'ann' has no memory 'a'"):
            writer.forget([("ann", "b"), ("ann", "a")])
        assert writer.snapshot.generation == 2
        writer.forget([])
        assert writer.snapshot.generation == 2
    assert verify(bank, SHAPES) == []


def test_one_bad_adapter_and_nothing_is_added(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        good, bad = staged(writer.stage(), "good", 1), staged(writer.stage(), "bad", 2)
        write_adapter(bad.adapter, 2, r=3)
        with pytest.raises(AdapterError, match="axis 0"):
            writer.add([good, bad], SHAPES)
        with pytest.raises(AdapterError, match="at most 1"):
            writer.add([good], SHAPES, max_rank=1)
        assert writer.snapshot.generation == 0
        assert verify_kinds(bank) == set()
        writer.add([good], SHAPES)


def verify_kinds(bank: Path) -> set[str]:
    """What is below `memories`, whoever named it."""
    return {path.name for path in (bank / "memories").rglob("*")}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones(8, np.float32), "unit length, found 2.8"),
        (np.eye(1, 7, dtype=np.float32)[0], r"shape \(8,\), found \(7,\)"),
        (np.eye(1, 8, dtype=np.float32), r"shape \(8,\), found \(1, 8\)"),
        (np.full(8, np.nan, np.float32), "NaN"),
    ],
    ids=["long", "short", "axes", "nan"],
)
def test_a_key_that_cannot_be_compared(bank: Path, tmp_path: Path, bad: np.ndarray, message: str) -> None:
    item = StagedMemory(NewMemory("Rain.", id="rain"), write_adapter(tmp_path / "a"), bad)
    with BankWriter.open(bank) as writer, pytest.raises(BankError, match=f"default/rain.*{message}"):
        writer.add([item], SHAPES)


def test_one_memory_twice_at_once(bank: Path, tmp_path: Path) -> None:
    item = staged(tmp_path / "a", "a")
    with BankWriter.open(bank) as writer, pytest.raises(BankError, match="default/a is given twice"):
        writer.add([item, item], SHAPES)


def test_an_adapter_that_changes_while_it_is_added(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = staged(tmp_path / "a", "a", 1)
    copy = staged_module.files.copy_file

    def meddle(source: Path, target: Path) -> None:
        write_adapter(item.adapter, 2)
        copy(source, target)

    monkeypatch.setattr(staged_module.files, "copy_file", meddle)
    with BankWriter.open(bank) as writer, pytest.raises(AdapterError, match="changed while it was added"):
        writer.add([item], SHAPES)
    assert BankReader(bank).snapshot().generation == 0
    BankWriter.open(bank).close()
    assert verify(bank, SHAPES) == []


def test_links_are_copied_not_kept(bank: Path, tmp_path: Path) -> None:
    item = staged(tmp_path / "hub", "a")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "hub" / name).rename(tmp_path / name)
        (tmp_path / "hub" / name).symlink_to(tmp_path / name)
    with BankWriter.open(bank) as writer:
        (entry,) = writer.add([item], SHAPES)
        assert not any(path.is_symlink() for path in writer.snapshot.folder(entry).iterdir())


def test_one_writer(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        for other in (BankWriter.open, lambda root: BankLock(root, shared=True)):
            with pytest.raises(BankLockedError, match=r"held by process \d+ on .* since 20"):
                other(bank)
        with pytest.raises(BankLockedError):
            verify(bank, SHAPES)
        assert writer.snapshot.generation == 0
    shared = BankLock(bank, shared=True), BankLock(bank, shared=True)
    with shared[0], shared[1], pytest.raises(BankLockedError, match="a process that checks the bank"):
        BankWriter.open(bank)
    BankWriter.open(bank).close()


def test_a_closed_writer(bank: Path) -> None:
    writer = BankWriter.open(bank)
    writer.stage()
    writer.close()
    writer.close()
    assert list((bank / "staging").iterdir()) == []
    with pytest.raises(BankError, match="closed"):
        writer.add([], SHAPES)
    with pytest.raises(BankError, match="closed"):
        writer.stage()


def test_opening_sweeps_up(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        (entry,) = writer.add([staged(writer.stage(), "a", 1)], SHAPES)
    before = contents(bank)
    for leftover in (
        "staging/x/adapter_model.safetensors", "keys-0.safetensors", "keys-2.safetensors", "memories/file",
        "memories/default/a/2/memory.json", "memories/default/b/1/memory.json", "memories/ann/c/1/x",
    ):  # fmt: skip
        (bank / leftover).parent.mkdir(parents=True, exist_ok=True)
        (bank / leftover).write_text("left over")
    with BankWriter.open(bank) as writer:
        assert contents(bank) == before
        assert writer.snapshot.text(entry)
    assert sorted(path.name for path in (bank / "memories").rglob("*") if path.is_dir()) == [
        "1",
        "a",
        "default",
    ]


def test_a_bank_is_not_made_over_something_else(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(BankError, match="holds a bank already"):
        BankWriter.create(bank, BASE, EMBEDDER)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(BankError, match=r"not empty \(it has thesis.txt\)"):
        BankWriter.create(tmp_path / "full", BASE, EMBEDDER)
    with pytest.raises(BankError, match="is a file"):
        BankWriter.create(tmp_path / "full" / "thesis.txt", BASE, EMBEDDER)
    with pytest.raises(BankNotFoundError, match="not a bank"):
        BankWriter.open(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_open_or_create(tmp_path: Path) -> None:
    bank = tmp_path / "deep" / "bank"
    BankWriter.open_or_create(bank, BASE, EMBEDDER).close()
    moved = BaseModelInfo("/elsewhere/invented-base", BASE.fingerprint)
    BankWriter.open_or_create(bank, moved, EMBEDDER).close()
    with pytest.raises(BankMismatchError, match=r"invented-base.*base-1.*base-2"):
        BankWriter.open_or_create(bank, BaseModelInfo("other", "base-2"), EMBEDDER)
    with pytest.raises(BankMismatchError, match=r"invented-embedder.*D=8.*other-embedder.*D=9"):
        BankWriter.open_or_create(bank, BASE, EmbedderInfo("other-embedder", "embedder-2", 9))
    BankWriter.open(bank).close()  # the refused ones hold no lock


def test_a_chat_template_is_kept_by_all_that_follows(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.set_chat_template("")
        assert writer.snapshot.generation == 0
        assert b"chat_template" not in (bank / "manifest.json").read_bytes(), "reads as it always has"
        writer.add([staged(writer.stage(), "a", 1)], SHAPES)
        writer.set_chat_template("{{ messages }}")
        assert writer.snapshot.generation == 2
        writer.add([staged(writer.stage(), "b", 2)], SHAPES)
        snapshot = writer.snapshot
    assert snapshot.manifest.base == msgspec.structs.replace(BASE, chat_template="{{ messages }}")
    assert [entry.id for entry in snapshot.manifest.memories] == ["a", "b"]
    assert verify(bank, SHAPES) == []


def test_a_link_out_of_the_bank_is_not_written_through(bank: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "a" / "1").mkdir(parents=True)
    (bank / "memories").mkdir()
    (bank / "memories" / "ann").symlink_to(outside)
    with BankWriter.open(bank) as writer:  # nobody named it: the link goes, what it led to stays
        assert not (bank / "memories" / "ann").is_symlink()
        assert (outside / "a" / "1").is_dir()
        (bank / "memories" / "ann").symlink_to(outside)
        with pytest.raises(BankFormatError, match="leads out of the bank"):
            writer.add([staged(writer.stage(), "b", 1, namespace="ann")], SHAPES)
    assert sorted(path.name for path in outside.iterdir()) == ["a"]


def test_links_change_nothing_but_the_manifest(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.add([staged(writer.stage(), f"m{i}", i) for i in range(3)], SHAPES)
        before = writer.snapshot
        writer.link({("default", "m1"): ["m0", "later"], ("default", "m2"): ["m1"]})
        after = writer.snapshot
        assert after.generation == before.generation + 1
        assert [entry.links for entry in after.manifest.memories] == [(), ("m0", "later"), ("m1",)]
        np.testing.assert_array_equal(after.keys, before.keys)
        bare = [msgspec.structs.replace(entry, links=()) for entry in after.manifest.memories]
        assert bare == list(before.manifest.memories)
        writer.link({("default", "m2"): ["m1"]})
        assert writer.snapshot is after, "nothing changed, and yet there is a new generation"
        with pytest.raises(BankError, match="memory default/m1: links names m0 more than once"):
            writer.link({("default", "m2"): [], ("default", "m1"): ["m0", "m0"]})
        with pytest.raises(MemoryNotFoundError, match="no memory 'm9'"):
            writer.link({("default", "m2"): [], ("default", "m9"): []})
        assert writer.snapshot is after
    assert verify(bank, SHAPES) == []


def test_tags_change_nothing_but_the_manifest(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.add([staged(writer.stage(), f"m{i}", i) for i in range(2)], SHAPES)
        before = writer.snapshot
        writer.amend({("default", "m1"): {"tags": ["red", "old"]}})
        after = writer.snapshot
        assert after.generation == before.generation + 1
        assert after.manifest.memories[0] == before.manifest.memories[0]
        assert after.manifest.memories[1].tags == ("red", "old")
        assert after.text(after.get("default", "m1")).tags == ("red", "old")
        bare = [msgspec.structs.replace(entry, tags=()) for entry in after.manifest.memories]
        assert bare == [msgspec.structs.replace(entry, tags=()) for entry in before.manifest.memories]
        writer.amend({("default", "m1"): {"tags": ["red", "old"]}})
        assert writer.snapshot is after, "nothing changed, and yet there is a new generation"
        with pytest.raises(BankError, match="memory default/m1: tags names red more than once"):
            writer.amend({("default", "m0"): {"tags": ["x"]}, ("default", "m1"): {"tags": ["red", "red"]}})
        assert writer.snapshot is after
    assert verify(bank, SHAPES) == []


def test_links_survive_an_update_unless_it_brings_its_own(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        first = staged(writer.stage(), "m", 1)
        linked = msgspec.structs.replace(first.memory, links=("a",))
        writer.add([StagedMemory(linked, first.adapter, first.key)], SHAPES)
        (entry,) = writer.add([staged(writer.stage(), "m", 2)], SHAPES)
        assert (entry.version, entry.links) == (2, ("a",))
        third = staged(writer.stage(), "m", 3)
        other = msgspec.structs.replace(third.memory, links=("b",))
        (entry,) = writer.add([StagedMemory(other, third.adapter, third.key)], SHAPES)
        assert entry.links == ("b",)
    assert verify(bank, SHAPES) == []
