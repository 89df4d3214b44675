"""A bank that somebody else has made: whatever its files are, it answers at once, with our error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bank.samples import SHAPES, write_adapter
from tests.bank.unreadable import NO_JSON, UNREADABLE
from tests.banks import make_bank
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.library import Library
from vllm_mega.bank.tensors import read_header
from vllm_mega.errors import AdapterError, BankError, BankFormatError, MegaError
from vllm_mega.memories.importing import import_bank
from vllm_mega.models.checkpoint import read_json, tensors
from vllm_mega.regular_file import read_regular


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    make_bank(tmp_path / "bank")
    return tmp_path / "bank"


def _told(act: Callable[[], object]) -> str:
    """What `act` says, whether it raises or not."""
    try:
        return repr(act())
    except MegaError as error:
        return str(error)


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("name", ["bank.json", "catalog.sqlite"])
def test_it_neither_waits_nor_fills_up(bank: Path, name: str, kind: str) -> None:
    for path in bank.glob(f"{name}*"):
        path.unlink()
    UNREADABLE[kind](bank / name)
    started = time.monotonic()
    with pytest.raises(BankError, match=name) as caught:
        Library(bank)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("case", NO_JSON)
def test_a_bank_file_that_is_none(bank: Path, case: str) -> None:
    (bank / "bank.json").write_bytes(NO_JSON[case][:900])
    with pytest.raises(BankFormatError, match=r"bank\.json: not what we write"):
        Library(bank)


@pytest.mark.parametrize("name", ["settings.json", "memories.jsonl"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_export_of_somebody_else(tmp_path: Path, bank: Path, name: str, kind: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text("{}")
    (tmp_path / "out" / name).unlink(missing_ok=True)
    UNREADABLE[kind](tmp_path / "out" / name)
    started = time.monotonic()
    with pytest.raises(BankFormatError):
        import_bank(tmp_path / "out", bank, SHAPES, "tester")
    assert time.monotonic() - started < 20


def test_what_became_a_pipe_while_it_was_added(bank: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    facts = check_adapter(folder, SHAPES)
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")
    started = time.monotonic()
    with open_catalog(bank) as catalog, pytest.raises(BankError, match="no regular file"):
        place(catalog, folder, facts)
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
