"""What is wrong with a bank is found, named, and not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from tests.bank.samples import BASE, EMBEDDER, SHAPES, key, staged, write_adapter
from vllm_mega.bank.verify import Problem, verify
from vllm_mega.bank.writer import BankWriter
from vllm_mega.errors import BankNotFoundError

FIRST, SECOND = "memories/default/first/1", "memories/default/second/1"


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    with BankWriter.create(tmp_path / "bank", BASE, EMBEDDER) as writer:
        writer.add([staged(writer.stage(), "first", 1), staged(writer.stage(), "second", 2)], SHAPES)
    return tmp_path / "bank"


def replace_keys(bank: Path, keys: np.ndarray) -> None:
    data = safetensors.numpy.save({"keys": keys.astype(np.float32)})
    (bank / "keys-1.safetensors").write_bytes(data)
    path = bank / "manifest.json"
    fields = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**fields, "keys": hashlib.sha256(data).hexdigest()}))


def test_a_whole_bank_has_no_problems(bank: Path) -> None:
    watched = []
    assert verify(bank, SHAPES, max_rank=2, progress=lambda some: watched.extend(some) or some) == []
    assert [entry.id for entry in watched] == ["first", "second"]


def test_no_bank(tmp_path: Path) -> None:
    with pytest.raises(BankNotFoundError):
        verify(tmp_path, SHAPES)


def test_without_a_lock_file_it_still_reads(bank: Path) -> None:
    (bank / "lock").unlink()
    assert verify(bank, SHAPES) == []
    assert not (bank / "lock").exists()


def extra(bank: Path, name: str) -> None:
    (bank / name).parent.mkdir(parents=True, exist_ok=True)
    (bank / name).write_text("left over")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


KEYS = "keys-1.safetensors"
Case = tuple[Callable[[Path], object], str, str, str | None, str]
CASES: dict[str, Case] = {
    "broken manifest": (
        lambda b: (b / "manifest.json").write_text("{"),
        "manifest",
        "manifest.json",
        None,
        "not a",
    ),
    "keys gone": (lambda b: (b / KEYS).unlink(), "keys", KEYS, None, "missing"),
    "keys flipped": (lambda b: flip(b / KEYS), "keys", KEYS, None, "SHA-256"),
    "key not finite": (
        lambda b: replace_keys(b, np.stack([key(1), key(2) * np.nan])),
        "key",
        KEYS,
        "second",
        "NaN",
    ),
    "key too long": (
        lambda b: replace_keys(b, np.stack([key(1) * 2, key(2)])),
        "key",
        KEYS,
        "first",
        "length",
    ),
    "text flipped": (lambda b: flip(b / FIRST / "memory.json"), "text", FIRST, "first", "SHA-256"),
    "text gone": (lambda b: (b / FIRST / "memory.json").unlink(), "text", FIRST, "first", "gone"),
    "weights flipped": (
        lambda b: flip(b / SECOND / "adapter_model.safetensors"),
        "adapter",
        SECOND,
        "second",
        "SHA-256",
    ),
    "weights gone": (
        lambda b: (b / SECOND / "adapter_model.safetensors").unlink(),
        "adapter",
        SECOND,
        "second",
        "no such file",
    ),
    "another adapter": (lambda b: write_adapter(b / FIRST, 7), "adapter", FIRST, "first", "SHA-256"),
    "file in a memory": (lambda b: extra(b, f"{FIRST}/notes.txt"), "stranger", FIRST, "first", "notes.txt"),
    "file in the bank": (lambda b: extra(b, "notes.txt"), "stranger", "notes.txt", None, "no part"),
    "staging": (lambda b: extra(b, "staging/x/memory.json"), "staging", "staging/x", None, "cut off"),
    "old keys": (lambda b: extra(b, "keys-0.safetensors"), "orphan", "keys-0.safetensors", None, "cut off"),
    "old version": (
        lambda b: extra(b, "memories/default/first/0/x"),
        "orphan",
        "memories/default/first/0",
        None,
        "cut off",
    ),
    "unknown memory": (
        lambda b: extra(b, "memories/default/third/1/x"),
        "orphan",
        "memories/default/third",
        None,
        "cut off",
    ),
    "unknown namespace": (
        lambda b: extra(b, "memories/ann/a/1/x"),
        "orphan",
        "memories/ann",
        None,
        "cut off",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "path", "memory", "says"), CASES.values(), ids=CASES)
def test_each_damage_is_one_problem(
    bank: Path, damage: Callable[[Path], object], kind: str, path: str, memory: str | None, says: str
) -> None:
    damage(bank)
    before = {p: p.stat().st_mtime_ns for p in bank.rglob("*")}
    (problem,) = verify(bank, SHAPES)
    assert (problem.kind, problem.path, problem.id) == (kind, path, memory)
    assert problem.namespace == ("default" if memory else None)
    assert says in problem.problem
    assert before == {p: p.stat().st_mtime_ns for p in bank.rglob("*")}


def test_all_problems_come_at_once(bank: Path) -> None:
    flip(bank / FIRST / "memory.json")
    flip(bank / SECOND / "adapter_model.safetensors")
    (bank / "keys-1.safetensors").unlink()
    extra(bank, "staging/x")
    assert [problem.kind for problem in verify(bank, SHAPES)] == ["keys", "text", "adapter", "staging"]


def test_a_link_out_of_the_bank(bank: Path, tmp_path: Path) -> None:
    weights = bank / FIRST / "adapter_model.safetensors"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    assert {problem.kind for problem in verify(bank, SHAPES)} == {"text", "adapter"}
    assert all("leads out of the bank" in problem.problem for problem in verify(bank, SHAPES))


def test_the_base_model_and_the_rank_limit_are_checked(bank: Path) -> None:
    assert {problem.kind for problem in verify(bank, {"other": (1, 1)})} == {"adapter"}
    assert "at most 1" in verify(bank, SHAPES, max_rank=1)[0].problem


def test_what_the_manifest_says_about_an_adapter(bank: Path) -> None:
    path = bank / "manifest.json"
    fields = msgspec.json.decode(path.read_bytes())
    fields["memories"][0]["rank"] = 4
    path.write_bytes(msgspec.json.encode(fields))
    (problem,) = verify(bank, SHAPES)
    assert (problem.kind, problem.id) == ("manifest", "first")
    assert isinstance(problem, Problem)
