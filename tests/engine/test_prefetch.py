"""Adapters are read ahead, and checked before they are needed; no engine here."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.adapters import write_adapter
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.prefetch import Announcer, Loader, channel
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Component

SHAPES = {"model.layers.10.mlp.up_proj": (16, 8)}


def component(n: int) -> Component:
    return Component(f"{n:064x}", f"/adapters/{n}", 64)


def test_what_was_announced_is_ready_and_what_was_not_is_read_when_taken():
    read: list[str] = []
    loader = Loader(lambda c: read.append(c.path) or c.path, ahead=4)  # type: ignore[arg-type]
    loader.prefetch(component(1))
    loader.prefetch(component(1))
    while not read:
        time.sleep(0.001)
    assert loader.take(component(1)) == ("/adapters/1", True)
    assert loader.take(component(2)) == ("/adapters/2", False)
    assert read == ["/adapters/1", "/adapters/2"]


def test_only_so_many_wait_and_the_oldest_goes_first():
    gate = threading.Event()
    read: list[str] = []

    def slow(c: Component) -> Any:
        gate.wait(10)
        read.append(c.path)
        return c.path

    loader = Loader(slow, ahead=2)
    for n in range(5):
        loader.prefetch(component(n))
    assert len(loader._coming) == 2
    gate.set()
    assert loader.take(component(4))[0] == "/adapters/4"
    assert loader.take(component(0)) == ("/adapters/0", False)
    assert "/adapters/2" not in read, "given up before it was begun"


def test_a_failure_ahead_is_tried_again_when_the_adapter_is_needed():
    broken = True

    def read(c: Component) -> Any:
        if broken:
            raise AdapterError(c.path, expected="whole", found="broken")
        return c.path

    loader = Loader(read, ahead=2)
    loader.prefetch(component(1))
    with pytest.raises(AdapterError, match="broken"):
        loader.take(component(1))
    loader.prefetch(component(1))
    while not loader._coming[component(1)[:2]].done():
        time.sleep(0.001)
    broken = False
    assert loader.take(component(1)) == ("/adapters/1", False)


def test_the_same_adapter_in_another_folder_is_another_file():
    loader = Loader(lambda c: c.path, ahead=2)  # type: ignore[arg-type,return-value]
    loader.prefetch(component(1))
    assert loader.take(component(1)._replace(path="/elsewhere")) == ("/elsewhere", False)


def test_workers_hear_announcements_and_skip_what_they_have(tmp_path: Path):
    address = f"ipc://{tmp_path}/channel"
    read: list[str] = []
    loader = Loader(lambda c: read.append(c.path), ahead=4)  # type: ignore[arg-type,return-value]
    loader.listen(address, lambda c: c != component(1))
    announcer = Announcer(address)
    deadline = time.monotonic() + 20
    while "/adapters/2" not in read and time.monotonic() < deadline:
        announcer.announce((component(1), component(2)))
        time.sleep(0.02)
    announcer.close()
    assert not list(tmp_path.iterdir())
    assert set(read) == {"/adapters/2"}


def test_engines_do_not_share_a_channel():
    def config(instance: str, rank: int) -> SimpleNamespace:
        return SimpleNamespace(instance_id=instance, parallel_config=SimpleNamespace(data_parallel_rank=rank))

    channels = {channel(config(i, r)) for i in ("a", "b") for r in (0, 1)}
    assert len(channels) == 4
    assert all(len(c) < 100 for c in channels), "paths of sockets are short"


@pytest.fixture
def adapter(tmp_path: Path) -> Component:
    folder = write_adapter(
        tmp_path / "adapter", SHAPES, seed=1, leaves=("mlp.up_proj",), layers=range(10, 11)
    )
    return Component(adapter_digest(folder), str(folder), 64)


def test_a_good_adapter_is_checked_once(adapter: Component):
    checks = AdapterChecks(SHAPES, max_rank=8)
    first = checks.begin(adapter)
    assert first.result() == ""
    assert checks.begin(adapter) is first


def test_an_adapter_that_changes_is_checked_again(adapter: Component):
    checks = AdapterChecks(SHAPES, max_rank=8)
    assert checks.begin(adapter).result() == ""
    weights = Path(adapter.path) / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "SHA-256" in checks.begin(adapter).result()
    shutil.rmtree(adapter.path)
    assert "adapter_config.json" in checks.begin(adapter).result()


def test_an_adapter_of_too_high_rank_is_told(adapter: Component):
    assert "rank" in AdapterChecks(SHAPES, max_rank=2).begin(adapter).result()
