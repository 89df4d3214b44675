"""Where adapters are found when a step needs them: disk -> host memory -> slot; on the real engine."""

from __future__ import annotations

import shutil
import time
from argparse import ArgumentParser
from pathlib import Path

import pytest

from tests.engine.adapters import Adapters
from tests.engine.conftest import Engine
from vllm_mega.engine.holding import folder_of
from vllm_mega.engine.slots.packed import PackedAdapter
from vllm_mega.errors import ConfigError
from vllm_mega.mixture import Component, Mixture

pytestmark = pytest.mark.engine
WEIGHTS = "adapter_model.safetensors"


def test_adapters_that_have_slots_are_not_loaded_again(engine: Engine, adapters: Adapters):
    mixture = adapters.mixture((0, 0.5), (1, 0.5))
    engine.ask([("Hello", mixture)])
    before = engine.manager.residency()
    engine.ask([("Hello again", mixture)])
    after = engine.manager.residency()
    assert (after.loads, after.host_misses, after.slot_misses) == (
        before.loads,
        before.host_misses,
        before.slot_misses,
    )
    assert after.slots == 4
    assert 2 <= after.slots_used <= 4


def test_an_adapter_is_loaded_ahead_while_another_request_runs(
    engine: Engine, adapters: Adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from vllm import SamplingParams

    from vllm_mega.engine.adapters import to_lora_request

    for n in range(6):  # adapter 6 is neither in a slot nor in host memory
        engine.ask([("Hello", adapters.mixture((n, 1.0)))], max_tokens=1)
    folder = tmp_path / "adapter"  # nobody has announced it from there, and not taken it
    shutil.copytree(adapters.folders[6], folder)
    ahead = Mixture([(adapters.digests[6], str(folder), 1.0)])
    loader, reads = engine.manager._loader, []
    read = loader._read

    def noted(component: Component) -> PackedAdapter:
        reads.append(folder_of(component.path))  # the engine holds its files: the path says so
        return read(component)

    monkeypatch.setattr(loader, "_read", noted)
    llm, params = engine.llm.llm_engine, SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    llm.add_request("runs", "Hello", params, lora_request=to_lora_request(adapters.mixture((5, 1.0))))
    llm.step()
    before = engine.manager.residency()
    llm.add_request("comes", "Hello", params, lora_request=to_lora_request(ahead))
    deadline = time.monotonic() + 20
    while str(folder) not in reads and time.monotonic() < deadline:
        time.sleep(0.01)  # no step: whatever is read now is read ahead
    assert reads.count(str(folder)) == 1
    while llm.has_unfinished_requests():
        llm.step()
    after = engine.manager.residency()
    assert after.prefetched == before.prefetched + 1
    assert reads.count(str(folder)) == 1


def test_an_adapter_damaged_after_it_was_used_ends_its_request_and_not_the_engine(
    engine: Engine, adapters: Adapters, tmp_path: Path
):
    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    mixture = Mixture([(adapters.digests[1], str(folder), 1.0)])
    good = engine.ask([("Hello", mixture)])[0]
    for n in range(2, 7):
        engine.ask([("Hello", adapters.mixture((n, 1.0)))], max_tokens=1)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-7])
    other = adapters.mixture((1, 1.0))
    broken, fine = engine.ask([("Hello", mixture), ("Hello", other)])
    assert broken.tokens == ()
    assert fine.tokens == good.tokens


def test_a_pinned_adapter_stays_whatever_else_is_loaded(engine: Engine, adapters: Adapters):
    manager = engine.manager
    component = adapters.mixture((0, 1.0)).components[0]
    manager.pin([component])
    try:
        with pytest.raises(ConfigError, match="max_cpu_loras"):
            manager.pin(adapters.mixture((1, 1.0)).components)
        for n in (*range(1, 7), *range(1, 7)):
            engine.ask([("Hello", adapters.mixture((n, 1.0)))], max_tokens=1)
        manager.remove_all_adapters()
        before = manager.residency()
        assert before.host_adapters == 1
        engine.ask([("Hello", adapters.mixture((0, 1.0)))])
        assert manager.residency().loads == before.loads
    finally:
        manager.remove_adapter(manager._component_id(component))
    assert manager.residency().host_adapters == 0


def test_memories_are_pinned_by_the_settings(tmp_path: Path):
    from vllm_mega.commands._memory_options import add_memory_options, memory_settings

    parser = ArgumentParser()
    add_memory_options(parser)
    args = parser.parse_args(["--bank", str(tmp_path), "--pin", "ferry", "--pin", "bridge"])
    assert memory_settings(args).pinned == ("ferry", "bridge")
