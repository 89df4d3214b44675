"""Files that are missing, of another format, cut off, or not those that were hashed."""

from __future__ import annotations

import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch

from tests.bank.refusals import CONFIG, WEIGHTS, refused
from tests.bank.samples import SHAPES, tensors, write_adapter
from tests.bank.unreadable import UNREADABLE
from vllm_mega.bank.adapter import adapter_digest, check_adapter
from vllm_mega.bank.tensors import read_header
from vllm_mega.errors import AdapterError


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (write_adapter(tmp_path) / name).unlink()
    refused(tmp_path, name, expected="adapter", found="no such file")
    with pytest.raises(AdapterError, match="no such file"):
        adapter_digest(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", CONFIG, expected="configuration", found="no such file")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (write_adapter(tmp_path) / CONFIG).unlink()
    (tmp_path / CONFIG).mkdir()
    refused(tmp_path, CONFIG, expected="can be read", found="directory")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickle_instead_of_safetensors(tmp_path: Path, name: str) -> None:
    (write_adapter(tmp_path) / WEIGHTS).rename(tmp_path / name)
    refused(tmp_path, name, expected=WEIGHTS, found="a pickle")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_renamed_to_safetensors(tmp_path: Path, legacy: bool) -> None:
    torch.save(tensors(), write_adapter(tmp_path) / WEIGHTS, _use_new_zipfile_serialization=not legacy)
    refused(tmp_path, WEIGHTS, expected="safetensors", found="a pickle")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_renamed_to_safetensors(tmp_path: Path, protocol: int) -> None:
    (write_adapter(tmp_path) / WEIGHTS).write_bytes(pickle.dumps({"a": 1}, protocol))
    refused(tmp_path, WEIGHTS, expected="safetensors", found="a pickle")


def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path) -> None:
    file = write_adapter(tmp_path) / WEIGHTS
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:end].ljust(0x580)  # spaces, as safetensors itself pads
    file.write_bytes(len(header).to_bytes(8, "little") + header + whole[end:])
    check_adapter(tmp_path, SHAPES)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = (write_adapter(tmp_path) / WEIGHTS).read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / WEIGHTS).write_bytes(whole[:size])
        refused(tmp_path, WEIGHTS, expected="whole safetensors", found=f"{size} bytes")


def test_more_bytes_than_the_header_says(tmp_path: Path) -> None:
    with (write_adapter(tmp_path) / WEIGHTS).open("ab") as file:
        file.write(b"more")
    refused(tmp_path, WEIGHTS, expected="whole safetensors", found="corrupt")


@pytest.mark.parametrize(
    "header",
    [
        b"not json at all!",
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":[]}',
    ],
)
def test_corrupt_header(tmp_path: Path, header: bytes) -> None:
    (write_adapter(tmp_path) / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(tmp_path, WEIGHTS, expected="whole safetensors", found="")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"peft_type": "LORA"', b"\xef\xbb\xbfx", b'{"r":' + b"[" * 100_000, b'{"r": "\xff"}',
     b'{"r": "\\ud83d"}'],
    ids=lambda data: repr(data)[:20],
)  # fmt: skip
def test_broken_config(tmp_path: Path, data: bytes) -> None:
    (write_adapter(tmp_path) / CONFIG).write_bytes(data)
    refused(tmp_path, CONFIG, expected="a PEFT LoRA configuration", found="")


def test_changed_after_hashing(tmp_path: Path) -> None:
    digest = adapter_digest(write_adapter(tmp_path, seed=1))
    write_adapter(tmp_path, seed=2)
    refused(tmp_path, "", expected=digest, found=adapter_digest(tmp_path), expected_digest=digest)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_the_digest_is_looked_at_before_anything_is_believed(tmp_path: Path, name: str) -> None:
    digest = adapter_digest(write_adapter(tmp_path))
    (tmp_path / name).write_bytes(b"[" * 100_000)
    refused(tmp_path, "", expected=digest, found=adapter_digest(tmp_path), expected_digest=digest)


@pytest.mark.parametrize("expected", [None, 64 * "0"], ids=["new", "known"])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_file_of_a_sensible_size(
    tmp_path: Path, kind: str, name: str, expected: str | None
) -> None:
    (write_adapter(tmp_path) / name).unlink()
    UNREADABLE[kind](tmp_path / name)
    started = time.monotonic()
    refused(tmp_path, name, expected="can be read", found="", expected_digest=expected)
    with pytest.raises(AdapterError):
        adapter_digest(tmp_path)
    assert time.monotonic() - started < 20


def test_a_header_of_gigabytes(tmp_path: Path) -> None:
    with (write_adapter(tmp_path) / WEIGHTS).open("r+b") as file:
        file.write((2 << 30).to_bytes(8, "little") + b"{")
        file.truncate(3 << 30)
    refused(tmp_path, WEIGHTS, expected="can be read", found="and at most")
    with pytest.raises(AdapterError, match="a header of 2147483648 bytes"):
        read_header(tmp_path / WEIGHTS)


def test_a_header_that_is_nested_too_deeply(tmp_path: Path) -> None:
    for header in (b'{"a":' * 100_000, b'{"a":{"dtype":' + b"[" * 100_000, b'{"\xff":1}', b'{"\\ud83d":1}'):
        (write_adapter(tmp_path) / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
        refused(tmp_path, WEIGHTS, expected="whole safetensors", found="")


def test_the_digest_covers_both_files_and_their_border(tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    assert adapter_digest(first) == adapter_digest(second)
    text, weights = (first / CONFIG).read_bytes(), (first / WEIGHTS).read_bytes()
    (second / CONFIG).write_bytes(text + weights[:1])
    (second / WEIGHTS).write_bytes(weights[1:])
    assert adapter_digest(first) != adapter_digest(second)
