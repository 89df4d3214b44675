"""What is loaded from the cache folder is whole, and nobody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_mega.errors import KernelError
from vllm_mega.kernels import cache, native
from vllm_mega.training.compute import fused_kernels

NAME = "kernel-0123.so"
WHOLE = b"\x7fELF" + bytes(range(256)) * 40


class Builds:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path) -> None:
        self.count += 1
        path.write_bytes(WHOLE)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Builds]:
    """A library in the cache, and who built it."""
    build, path = Builds(), tmp_path / "kernels" / NAME
    os.close(cache.opened(path, build))
    return path, build


def content(path: Path, build: Builds) -> bytes:
    descriptor = cache.opened(path, build)
    try:
        return os.pread(descriptor, 10**6, 0)
    finally:
        os.close(descriptor)


def test_it_is_built_once_and_only_its_owner_may_write(kept: tuple[Path, Builds]) -> None:
    path, build = kept
    assert content(path, build) == WHOLE
    assert build.count == 1
    assert sorted(file.name for file in path.parent.iterdir()) == [NAME, f"{NAME}.sha256"]
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o644}


def _other_bytes(path: Path) -> None:
    path.write_bytes(WHOLE[:-1] + b"x")


def _truncated(path: Path) -> None:
    path.write_bytes(WHOLE[:100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_digest(path: Path) -> None:
    path.with_name(f"{NAME}.sha256").unlink()


def _digest_in_no_text(path: Path) -> None:
    path.with_name(f"{NAME}.sha256").write_bytes(b"\xff" * 64)


def _another_kernel_of_ours(path: Path) -> None:
    """Whoever may write the folder renames what is ours: both files agree, and yet it is another kernel."""
    other = path.with_name("other-4567.so")
    os.close(cache.opened(other, lambda built: built.write_bytes(b"other") and None))
    for ending in ("", ".sha256"):
        Path(f"{other}{ending}").replace(f"{path}{ending}")


def _writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def _digest_writable_by_the_group(path: Path) -> None:
    path.with_name(f"{NAME}.sha256").chmod(0o664)


def _a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        _other_bytes,
        _truncated,
        _empty,
        _no_digest,
        _digest_in_no_text,
        _another_kernel_of_ours,
        _writable_by_others,
        _digest_writable_by_the_group,
        _a_link,
        _a_fifo,
    ],
)
def test_what_is_wrong_is_built_again(kept: tuple[Path, Builds], spoil: Callable[[Path], None]) -> None:
    path, build = kept
    spoil(path)
    assert content(path, build) == WHOLE
    assert build.count == 2
    assert content(path, build) == WHOLE
    assert build.count == 2, "it is kept"


def test_a_strangers_library_is_not_loaded(
    kept: tuple[Path, Builds], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, build = kept
    owner = path.stat().st_uid
    if owner == 0:  # then anybody else is a stranger; else we look at it with the eyes of another user
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert content(path, build) == WHOLE
    assert build.count == 2


def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build = Builds()
    (tmp_path / "kernels").touch()
    for _ in range(2):
        assert content(tmp_path / "kernels" / NAME, build) == WHOLE
    assert build.count == 2
    assert "compiled at every start" in caplog.text


def test_no_place_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path))

    def nowhere(_: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(cache, "_workspace", nowhere)
    with pytest.raises(KernelError, match=r"no place to compile the CPU kernel in .* VLLM_MEGA_HOME"):
        native.compiled()


@pytest.mark.parametrize("module", ["vllm_mega.kernels.native", "vllm_mega.training.compute.fused_kernels"])
def test_a_truncated_kernel_ends_no_process(tmp_path: Path, module: str) -> None:
    source = {"vllm_mega.training.compute.fused_kernels": fused_kernels.SOURCE}.get(module)
    whole, descriptor = native.compiled(source)
    os.close(descriptor)
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    for ending in ("", ".sha256"):
        shutil.copy(f"{whole}{ending}", kernels)
    cut = kernels / whole.name
    cut.write_bytes(cut.read_bytes()[:5000])
    load = "assert fused_kernels._library()" if source else "native.functions()"
    code = f"import torch; from {module.rpartition('.')[0]} import {module.rpartition('.')[2]}; {load}"
    environment = {**os.environ, "VLLM_MEGA_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    assert cut.stat().st_size > 5000
