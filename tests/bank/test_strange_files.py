"""A bank that somebody else has made: whatever its files are, the reader answers at once, with our error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bank.samples import BASE, EMBEDDER, SHAPES, staged
from tests.bank.unreadable import NO_JSON, UNREADABLE
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.lock import BankLock
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.staged import write_memory
from vllm_mega.bank.tensors import read_header
from vllm_mega.bank.verify import verify
from vllm_mega.bank.writer import BankWriter
from vllm_mega.errors import AdapterError, BankError, BankFormatError, MegaError
from vllm_mega.models.checkpoint import read_json, tensors
from vllm_mega.regular_file import read_regular

FOLDER = "memories/default/a/1"
FILES = ["manifest.json", "keys-1.safetensors", f"{FOLDER}/memory.json", "lock"]


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    with BankWriter.create(tmp_path / "bank", BASE, EMBEDDER) as writer:
        writer.add([staged(writer.stage(), "a")], SHAPES)
    return tmp_path / "bank"


def _read(bank: Path) -> None:
    snapshot = BankReader(bank).snapshot()
    snapshot.text(snapshot.get("default", "a"))


def _write(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        assert writer.snapshot.keys.shape == (1, 8)


def _told(act: Callable[[], object]) -> str:
    """What `act` says, whether it raises or not."""
    try:
        return repr(act())
    except MegaError as error:
        return str(error)


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("name", FILES)
def test_it_neither_waits_nor_fills_up(bank: Path, name: str, kind: str) -> None:
    (bank / name).unlink()
    UNREADABLE[kind](bank / name)
    started = time.monotonic()
    for act in (_read, _write):
        if name == "lock" and (act is _read or kind == "terabytes"):
            continue  # readers take no lock, and nobody reads what is in it
        if name.endswith("memory.json") and act is _write:
            continue
        if kind == "device" and name != "lock":
            with pytest.raises(BankFormatError, match="leads out of the bank"):
                act(bank)
            continue
        with pytest.raises(BankError, match=os.path.basename(name)) as caught:  # noqa: PTH119
            act(bank)
        assert len(str(caught.value)) < 1000
    assert name in _told(lambda: verify(bank, SHAPES)) or name == "lock"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("case", NO_JSON)
def test_a_manifest_that_is_none(bank: Path, case: str) -> None:
    (bank / "manifest.json").write_bytes(NO_JSON[case])
    for act in (_read, _write):
        with pytest.raises(BankFormatError, match=r"manifest\.json: not a manifest"):
            act(bank)
    assert [problem.kind for problem in verify(bank, SHAPES)] == ["manifest"]


def test_keys_of_absurd_length(bank: Path) -> None:
    manifest = (bank / "manifest.json").read_text()
    for dim in ("0", "-8", str(10**15)):
        (bank / "manifest.json").write_text(manifest.replace('"dim": 8', f'"dim": {dim}'))
        with pytest.raises(BankFormatError, match="numbers, found"):
            BankReader(bank).snapshot()


def test_a_shared_lock_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(BankError, match="no regular file"):
        BankLock(tmp_path, shared=True)


def test_what_became_a_pipe_while_it_was_added(tmp_path: Path) -> None:
    item = staged(tmp_path / "adapter", "a")
    facts = check_adapter(item.adapter, SHAPES)
    (item.adapter / "adapter_config.json").unlink()
    os.mkfifo(item.adapter / "adapter_config.json")
    started = time.monotonic()
    with pytest.raises(OSError, match="no regular file"):
        write_memory(tmp_path / "new", item, facts)  # type: ignore[arg-type]
    assert time.monotonic() - started < 20


def test_a_file_that_grows_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result((0o100644, *[0] * 9)))
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "file", 4)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", [*UNREADABLE, *NO_JSON])
def test_a_base_model_too(tmp_path: Path, kind: str, name: str) -> None:
    if kind in UNREADABLE:
        UNREADABLE[kind](tmp_path / name)
    else:
        data = NO_JSON[kind]
        header = len(data).to_bytes(8, "little") if name == "model.safetensors" else b""
        (tmp_path / name).write_bytes(header + data)
    started = time.monotonic()
    if name == "model.safetensors":
        assert name in _told(lambda: tensors(tmp_path))
    elif not kind.startswith("half"):  # which json of Python takes
        assert name in _told(lambda: read_json(tmp_path / name))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_header_of_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """As `serve` reads it for every adapter, to choose options for vLLM."""
    UNREADABLE[kind](tmp_path / "adapter_model.safetensors")
    started = time.monotonic()
    with pytest.raises(AdapterError, match="a file that can be read"):
        read_header(tmp_path / "adapter_model.safetensors")
    assert time.monotonic() - started < 20
