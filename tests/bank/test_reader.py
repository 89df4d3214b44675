"""Snapshots are one generation each, whatever a writer does meanwhile."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from tests.bank.samples import BASE, EMBEDDER, SHAPES, key, staged, write_adapter
from vllm_mega.bank import reader as reader_module
from vllm_mega.bank.layout import EmbedderInfo, NewMemory
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.errors import (
    BankError,
    BankFormatError,
    BankMismatchError,
    BankNotFoundError,
    MemoryNotFoundError,
)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank with ann/a, ben/a and ann/b."""
    root = tmp_path / "bank"
    with BankWriter.create(root, BASE, EMBEDDER) as writer:
        items = [
            staged(writer.stage(), "a", 1, namespace="ann"),
            staged(writer.stage(), "a", 2, namespace="ben"),
            staged(writer.stage(), "b", 3, namespace="ann"),
        ]
        writer.add(items, SHAPES)
    return root


def rewrite(bank: Path, **changes: Any) -> None:
    """Replace fields of the manifest, as a broken program might."""
    path = bank / "manifest.json"
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), **changes}))


def test_namespaces_are_apart(bank: Path) -> None:
    snapshot = BankReader(bank).snapshot()
    assert snapshot.rows("ann").tolist() == [0, 2]
    assert snapshot.rows("ben").tolist() == [1]
    assert snapshot.rows("nobody").tolist() == []
    assert snapshot.get("ben", "a").training == {"seed": 2}
    assert snapshot.row(snapshot.get("ann", "b")) == 2
    np.testing.assert_array_equal(snapshot.keys[snapshot.rows("ben")], [key(2)])
    with pytest.raises(MemoryNotFoundError, match="'ben' has no memory 'b'"):
        snapshot.get("ben", "b")


def test_a_snapshot_never_changes(bank: Path) -> None:
    reader = BankReader(bank)
    old = reader.snapshot()
    with pytest.raises(ValueError, match="read-only"):
        old.keys[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        old.rows("ann")[0] = 1
    with pytest.raises(AttributeError):
        old.root = bank  # type: ignore[misc]
    with BankWriter.open(bank) as writer:
        writer.forget([("ann", "a")])
    assert reader.snapshot().generation == 2
    assert (old.generation, len(old.manifest.memories), old.keys.shape) == (1, 3, (3, 8))
    np.testing.assert_array_equal(old.keys, [key(1), key(2), key(3)])


def test_paths_are_absolute_whatever_the_working_directory(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bank.parent)
    reader = BankReader("bank")
    monkeypatch.chdir("/")
    snapshot = reader.snapshot()
    entry = snapshot.get("ann", "a")
    assert snapshot.folder(entry) == bank / "memories" / "ann" / "a" / "1"
    assert snapshot.text(entry).id == "a"


def test_nothing_is_read_again_while_nothing_changes(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = BankReader(bank)
    first = reader.snapshot()

    def fail(*_: object) -> None:
        raise AssertionError("the bank was read again")

    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "load_snapshot", fail)
        assert reader.snapshot() is first
        os.utime(bank / "keys-1.safetensors")
        assert reader.snapshot() is first
    with BankWriter.open(bank) as writer:
        assert reader.snapshot() is first
        writer.add([staged(writer.stage(), "a", 4, namespace="ann")], SHAPES)
    assert reader.snapshot().generation == 2


def test_every_manifest_has_another_time(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)  # a clock that stands still
    times = [(bank / "manifest.json").stat().st_mtime_ns]
    with BankWriter.open(bank) as writer:
        for seed in range(3):
            writer.add([staged(writer.stage(), "a", seed, namespace="ann")], SHAPES)
            times.append((bank / "manifest.json").stat().st_mtime_ns)
    assert sorted(set(times)) == times


def test_a_bank_that_was_replaced_is_noticed(bank: Path, tmp_path: Path) -> None:
    reader = BankReader(bank, base_fingerprint=BASE.fingerprint, embedder=EMBEDDER)
    reader.snapshot()
    shutil.rmtree(bank)
    with pytest.raises(BankNotFoundError):
        reader.snapshot()
    BankWriter.create(bank, msgspec.structs.replace(BASE, fingerprint="base-2"), EMBEDDER).close()
    with pytest.raises(BankMismatchError):
        reader.snapshot()
    shutil.rmtree(bank)
    BankWriter.create(bank, BASE, EMBEDDER).close()
    assert reader.snapshot().generation == 0


def test_no_bank(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BankNotFoundError, match="is not a bank"):
            BankReader(path).snapshot()


def test_another_base_model_names_both(bank: Path) -> None:
    with pytest.raises(BankMismatchError, match=r"invented-base \(fingerprint base-1\).*base-2"):
        BankReader(bank, base_fingerprint="base-2").snapshot()


@pytest.mark.parametrize(
    "other", [EmbedderInfo("other", "embedder-2", 8), EmbedderInfo("other", "embedder-1", 9)]
)
def test_another_embedder_names_both(bank: Path, other: EmbedderInfo) -> None:
    with pytest.raises(BankMismatchError, match=rf"invented-embedder.*embedder-1, D=8.*other.*D={other.dim}"):
        BankReader(bank, embedder=other).snapshot()
    renamed = msgspec.structs.replace(EMBEDDER, name="/a/path/to/it")
    assert BankReader(bank, embedder=renamed).snapshot().generation == 1


@pytest.mark.parametrize("version", [0, 1, 99])
def test_an_unknown_format_says_which_are_known(bank: Path, version: int) -> None:
    rewrite(bank, format=version, something_new=True)
    with pytest.raises(BankFormatError, match=rf"format {version} is unknown; .* knows format 2"):
        BankReader(bank).snapshot()
    with pytest.raises(BankFormatError, match="is unknown"):
        BankWriter.open(bank)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": "1"}'])
def test_a_broken_manifest(bank: Path, text: str) -> None:
    (bank / "manifest.json").write_text(text)
    with pytest.raises(BankFormatError, match=r"manifest\.json: not a manifest"):
        BankReader(bank).snapshot()


@pytest.mark.parametrize(
    "change", [{"generation": "x"}, {"unknown": 1}, {"keys": None}, {"memories": [{"id": "a"}]}], ids=str
)
def test_a_manifest_with_bad_fields(bank: Path, change: dict[str, Any]) -> None:
    rewrite(bank, **change)
    with pytest.raises(BankFormatError, match=r"not a manifest: .*`"):
        BankReader(bank).snapshot()


def test_a_manifest_that_leads_out_of_the_bank(bank: Path) -> None:
    memories = msgspec.to_builtins(BankReader(bank).snapshot().manifest.memories)
    rewrite(bank, memories=[{**memories[0], "namespace": "../../.."}, *memories[1:]])
    with pytest.raises(BankFormatError, match=r"namespace must be .*memories\[0\]"):
        BankReader(bank).snapshot()


def test_keys_of_another_generation_are_never_taken(bank: Path) -> None:
    other = safetensors.numpy.save({"keys": np.stack([key(4), key(5), key(6)])})
    (bank / "keys-1.safetensors").write_bytes(other)
    with pytest.raises(BankFormatError, match=f"found {hashlib.sha256(other).hexdigest()}"):
        BankReader(bank).snapshot()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors.numpy.save({"keys": np.zeros((2, 8), np.float32)}), r"expected float32 \(3, 8\), found"),
        (safetensors.numpy.save({"keys": np.zeros((3, 7), np.float32)}), r"expected float32 \(3, 8\), found"),
        (safetensors.numpy.save({"keys": np.zeros((3, 8), np.float64)}), r"found float64 \(3, 8\)"),
        (safetensors.numpy.save({"kees": np.zeros((3, 8), np.float32)}), "not a keys file: 'keys'"),
        (b"no tensors", "not a keys file"),
    ],
)
def test_keys_that_do_not_fit_the_memories(bank: Path, data: bytes, message: str) -> None:
    (bank / "keys-1.safetensors").write_bytes(data)
    rewrite(bank, keys=hashlib.sha256(data).hexdigest())
    with pytest.raises(BankFormatError, match=message):
        BankReader(bank).snapshot()


def test_missing_keys(bank: Path) -> None:
    (bank / "keys-1.safetensors").unlink()
    with pytest.raises(BankFormatError, match=r"keys-1\.safetensors is missing"):
        BankReader(bank).snapshot()


def test_a_changed_text_is_noticed(bank: Path) -> None:
    snapshot = BankReader(bank).snapshot()
    entry = snapshot.get("ann", "a")
    (snapshot.folder(entry) / "memory.json").write_text('{"text": "something else"}')
    with pytest.raises(BankFormatError, match=f"expected SHA-256 {entry.text_digest}"):
        snapshot.text(entry)


@pytest.mark.parametrize("what", ["manifest.json", "keys-1.safetensors"])
def test_links_that_lead_out_are_refused(bank: Path, tmp_path: Path, what: str) -> None:
    (bank / what).rename(tmp_path / what)
    (bank / what).symlink_to(tmp_path / what)
    with pytest.raises(BankFormatError, match=f"{what} leads out of the bank"):
        BankReader(bank).snapshot()


@pytest.mark.parametrize(
    "what", ["memories", "memories/ann", "memories/ann/a/1", "memories/ann/a/1/adapter_model.safetensors"]
)
def test_links_to_memories_elsewhere_are_refused(bank: Path, tmp_path: Path, what: str) -> None:
    (bank / what).rename(tmp_path / "elsewhere")
    (bank / what).symlink_to(tmp_path / "elsewhere")
    snapshot = BankReader(bank).snapshot()
    entry = snapshot.get("ann", "a")
    for use in (snapshot.folder, snapshot.text):
        with pytest.raises(BankFormatError, match="leads out of the bank"):
            use(entry)


def test_a_link_to_the_bank_itself_is_fine(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bank)
    snapshot = BankReader(tmp_path / "link").snapshot()
    assert snapshot.text(snapshot.get("ann", "a")).id == "a"


def test_a_commit_between_manifest_and_keys_is_retried(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = reader_module.read_keys, []

    def slow(root: Path, manifest: Any) -> Any:
        calls.append(manifest.generation)
        if len(calls) <= 2:
            with monkeypatch.context() as patch:
                patch.setattr(reader_module, "read_keys", read)
                with BankWriter.open(bank) as writer:
                    writer.add([staged(writer.stage(), "a", 10 + len(calls), namespace="ann")], SHAPES)
        return read(root, manifest)

    reader = BankReader(bank)
    monkeypatch.setattr(reader_module, "read_keys", slow)
    snapshot = reader.snapshot()
    assert calls == [1, 2, 3]
    assert snapshot.generation == 3
    np.testing.assert_array_equal(snapshot.keys[0], key(12))


def test_a_bank_that_never_stands_still_gives_up(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(root: Path, manifest: Any) -> Any:
        path = root / "manifest.json"
        now = path.stat().st_mtime_ns + 1
        os.utime(path, ns=(now, now))
        raise BankFormatError("gone")

    monkeypatch.setattr(reader_module, "read_keys", gone)
    with pytest.raises(BankError, match="changed 100 times"):
        BankReader(bank).snapshot()


def test_readers_beside_a_busy_writer(bank: Path, tmp_path: Path) -> None:
    """Row and memory always belong together, no reader fails, and generations never go back."""
    adapter = write_adapter(tmp_path / "adapter")
    reader = BankReader(bank, base_fingerprint=BASE.fingerprint, embedder=EMBEDDER)
    stop, failures, seen = threading.Event(), [], set()

    def read() -> None:
        last = 0
        try:
            while not stop.is_set():
                for one in (reader, BankReader(bank)):
                    snapshot = one.snapshot()
                    wanted = [key(entry.training["seed"]) for entry in snapshot.manifest.memories]
                    np.testing.assert_array_equal(snapshot.keys, wanted)
                    assert snapshot.generation >= last
                    last = snapshot.generation
                seen.add(last)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with BankWriter.open(bank) as writer:
            for seed in range(40):
                memory = NewMemory(f"Tide number {seed}.", id=f"tide-{seed % 7}")
                writer.add([StagedMemory(memory, adapter, key(seed), {"seed": seed})], SHAPES)
                if seed % 5 == 4:
                    writer.forget([("default", f"tide-{seed % 7}")])
            last = writer.snapshot.generation
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(seen) > 3
    assert reader.snapshot().generation == last
