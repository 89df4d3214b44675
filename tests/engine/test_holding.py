"""What a request needs stays readable until it is done; no engine here."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from vllm.lora.request import LoRARequest

from tests.banks import Item, forget, make_bank
from tests.engine.adapters import write_adapter
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.engine.adapters import mixture_of, to_lora_request
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.holding import HeldPath, Holder, files_of, folder_of, readable, signature
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Mixture

SHAPES = {"model.layers.10.mlp.up_proj": (16, 8)}


def write(folder: Path, seed: int = 1) -> Path:
    return write_adapter(folder, SHAPES, seed=seed, leaves=("mlp.up_proj",), layers=range(10, 11))


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect() -> None:
    """What earlier tests imported is left out of the collections of garbage that these need."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter")


def mixture(folder: Path) -> Mixture:
    return Mixture([(adapter_digest(folder), str(folder), 1.0)])


def path(one: Mixture) -> str:
    return one.components[0].path


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_held_adapter_outlives_its_folder(folder: Path) -> None:
    plain = mixture(folder)
    held = Holder().hold(plain)
    assert (held.name, folder_of(path(held))) == (plain.name, str(folder))
    before = signature(path(held))
    assert before == signature(str(folder))
    checks = AdapterChecks(SHAPES, max_rank=8)
    first = checks.begin(held.components[0])
    shutil.rmtree(folder)
    assert first.result() == ""
    assert checks.begin(held.components[0]) is first, "deleting is no change"
    assert AdapterChecks(SHAPES, max_rank=8).begin(held.components[0]).result() == ""
    with readable(path(held)) as links:
        assert adapter_digest(links) == plain.components[0].adapter
    assert not links.exists()


def test_a_memory_that_is_forgotten_stays_readable_for_those_who_hold_it(
    folder: Path, tmp_path: Path
) -> None:
    """As the store removes it; what comes back with the same adapter is another file, and a good one."""
    bank, memory = tmp_path / "bank", NewMemory("The lamp burns nine nights.", id="lamp")
    checks, holder = AdapterChecks(SHAPES, max_rank=8), Holder()

    def decided() -> Mixture:
        make_bank(bank, [Item(memory, folder)], shapes=SHAPES)
        with Library(bank) as library:
            row = library.get("default", "lamp")
            return Mixture([(str(row.adapter), str(library.folder(row)), 1.0)])

    plain = decided()
    held = holder.hold(plain)
    before = signature(path(held))
    forget(bank, ("default", "lamp"))
    assert not list(bank.glob("adapters/*/*"))
    assert not list(bank.glob("staging/*"))
    assert "no such file" in checks.begin(plain.components[0]).result()
    assert checks.begin(held.components[0]).result() == ""
    with readable(path(held)) as links:
        assert adapter_digest(links) == held.components[0].adapter
    again = holder.hold(decided())
    assert again.path != held.path
    assert (signature(path(held)), signature(path(again))) == (before, signature(path(plain)))
    assert checks.begin(again.components[0]).result() == ""


def test_another_process_reads_and_holds_it(folder: Path) -> None:
    held = Holder().hold(mixture(folder))
    shutil.rmtree(folder)
    program = (
        "import sys\n"
        "from vllm_mega.bank.adapter import adapter_digest\n"
        "from vllm_mega.engine.holding import HeldPath, folder_of, readable\n"
        "held = HeldPath.opened(sys.argv[1])\n"
        "with readable(held) as folder: print(adapter_digest(folder), folder_of(held))"
    )
    command = [sys.executable, "-c", program, path(held)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [held.components[0].adapter, str(folder)]


def test_it_is_held_as_long_as_anything_made_of_it(folder: Path) -> None:
    before = open_files()
    held = Holder().hold(mixture(folder))
    assert open_files() == before + 2
    request = to_lora_request(held.scaled(0.5))
    del held
    assert open_files() == before + 2
    del request
    assert open_files() == before


def test_a_request_that_holds_travels_like_any_other(folder: Path) -> None:
    held = Holder().hold(mixture(folder))
    request = to_lora_request(held)
    assert request is not None
    plain = LoRARequest(request.lora_name, request.lora_int_id, request.lora_path)
    assert request == plain
    assert plain == request
    assert len({request, plain}) == 1
    assert msgspec.msgpack.encode(request) == msgspec.msgpack.encode(plain)
    for arrived in (msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=LoRARequest), plain):
        assert mixture_of(arrived) == held
    assert pickle.loads(pickle.dumps(request)).lora_path == request.lora_path  # noqa: S301  # our own


def test_equal_adapters_are_held_once_until_their_files_change(folder: Path) -> None:
    holder, plain = Holder(), mixture(folder)
    before = open_files()
    first, second = holder.hold(plain), holder.hold(plain)
    assert path(first) is path(second)
    assert open_files() == before + 2
    assert path(Holder().hold(first)) != path(first), "each process holds for itself"
    other = write(folder.with_name("new"), seed=2)
    for file in other.iterdir():
        file.replace(folder / file.name)
    repaired = holder.hold(plain)
    assert signature(path(repaired)) == signature(str(folder)) != signature(path(first))


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("instead", ["nothing", "a FIFO"])
def test_what_cannot_be_held_stays_as_it_is(folder: Path, missing: str, instead: str) -> None:
    plain, before = mixture(folder), open_files()
    (folder / missing).unlink()
    if instead == "a FIFO":
        os.mkfifo(folder / missing)
    held = Holder().hold(plain)
    assert held == plain
    assert not isinstance(path(held), HeldPath)
    assert open_files() == before


def test_so_many_and_those_that_run_at_any_rate(tmp_path: Path) -> None:
    holder = Holder(most=1)
    first, second = (mixture(write(tmp_path / str(seed), seed)) for seed in (1, 2))
    kept = holder.hold(first)
    assert isinstance(path(kept), HeldPath)
    assert not isinstance(path(holder.hold(second)), HeldPath)
    assert isinstance(path(holder.hold(second, at_any_rate=True)), HeldPath)


@pytest.mark.parametrize(("limit", "most"), [(1024, 256), (resource.RLIM_INFINITY, 2**18)])
def test_half_of_the_files_that_may_be_open(limit: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert Holder()._most == most


def test_where_the_holder_is_gone_the_folder_is_read(folder: Path) -> None:
    address = str(path(Holder().hold(mixture(folder))))  # a plain copy holds nothing
    gc.collect()
    assert files_of(address)[0].parent == folder
    with readable(address) as found:
        assert found == folder


def test_errors_speak_of_the_folder(folder: Path) -> None:
    held = Holder().hold(mixture(folder))
    with pytest.raises(AdapterError) as caught, readable(path(held)) as links:
        raise AdapterError(links / "adapter_config.json", expected="a", found="b", change="c")
    assert str(caught.value) == f"{folder}/adapter_config.json: expected a, found b. c"
