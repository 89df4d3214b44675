"""Bad adapters are refused when they are loaded, with the reason; the engine goes on."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.adapters import Adapters, write_adapter
from tests.engine.conftest import Engine
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine
WEIGHTS = "adapter_model.safetensors"


def _edit(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def _wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(n for n in tensors if "lora_A" in n)
    tensors[name] = torch.zeros(tensors[name].shape[0], 99)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def _no_such_module(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("layers.", "blocks.")] = tensors.pop(name)


def _truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))


def _high_rank(folder: Path) -> None:
    shapes = {"model.layers.2.mlp.up_proj": (256, 128)}
    shutil.rmtree(folder)
    write_adapter(folder, shapes, seed=0, rank=16, leaves=("mlp.up_proj",), layers=range(2, 3))


SPOILED = {
    "wrong shape": (_edit(_wrong_shape), "99"),
    "NaN": (_edit(_nan), "finite"),
    "no matching module": (_edit(_no_such_module), "blocks"),
    "truncated": (_truncate, WEIGHTS),
    "pickle": (_pickle, "safetensors"),
    "rank above the limit": (_high_rank, "rank"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_bad_adapter_is_refused_and_the_engine_goes_on(
    engine: Engine, adapters: Adapters, tmp_path: Path, kind: str
):
    from vllm_mega.engine.adapters import to_lora_request

    spoil, words = SPOILED[kind]
    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    spoil(folder)
    digest = adapter_digest(folder) if (folder / WEIGHTS).exists() else "0" * 64
    with pytest.raises(AdapterError, match=words) as caught:
        engine.llm.llm_engine.add_lora(to_lora_request(Mixture([(digest, str(folder), 1.0)])))
    assert str(folder) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "found" in str(caught.value)
    assert len(engine.ask([("Hello", adapters.mixture((1, 1.0)))])[0].tokens) == 8


def test_an_adapter_changed_after_hashing_is_refused(engine: Engine, adapters: Adapters, tmp_path: Path):
    from vllm_mega.engine.adapters import to_lora_request

    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    mixture = Mixture([(adapters.digests[1][::-1], str(folder), 1.0)])
    with pytest.raises(AdapterError, match="SHA-256"):
        engine.llm.llm_engine.add_lora(to_lora_request(mixture))


def test_a_memory_forgotten_while_it_waits_ends_its_request_and_no_other(
    engine: Engine, adapters: Adapters, tmp_path: Path
):
    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    mixture = Mixture([("f" * 64, str(tmp_path / "gone"), 1.0)])
    answers = engine.ask([("Hello", mixture), ("Hello", adapters.mixture((1, 1.0)))])
    assert answers[0].tokens == ()
    assert len(answers[1].tokens) == 8


def test_a_plain_adapter_with_nan_is_refused(engine: Engine, adapters: Adapters, tmp_path: Path):
    from vllm.lora.request import LoRARequest

    folder = tmp_path / "adapter"
    shutil.copytree(adapters.folders[1], folder)
    _edit(_nan)(folder)
    with pytest.raises(AdapterError, match="finite"):
        engine.llm.llm_engine.add_lora(LoRARequest("nan", 77, str(folder)))
    assert 77 not in engine.llm.llm_engine.list_loras()
