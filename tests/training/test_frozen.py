"""Loading the model: what is asked for, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.cpus import WITH_BFLOAT16, WITHOUT_BFLOAT16
from tests.training.tiny import SETTINGS
from vllm_mega.errors import ModelError
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.training.compute.frozen import FrozenModel


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit(folder: Path, **change: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))


def test_weights_that_are_missing_are_told(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj\.weight.*--model"):
        FrozenModel(copy, SETTINGS)


def test_half_precision_is_trained_in_a_type_that_cpus_compute_fast(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    edit(copy, dtype="float16")
    for cpu, dtype in ((WITH_BFLOAT16, torch.bfloat16), (WITHOUT_BFLOAT16, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=cpu: found)
        assert FrozenModel(copy, SETTINGS, "cpu").model.dtype == dtype


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit(copy, model_type="own", auto_map=code, architectures=["OwnForCausalLM"])
    for file in ("configuration_own.py", "modeling_own.py"):
        (copy / file).write_text("raise AssertionError('the code was run')")
    with pytest.raises(ModelError, match=r"brings code of its own.*give --trust-remote-code"):
        FrozenModel(copy, SETTINGS)


def test_the_tokens_that_end_an_answer(copy: Path) -> None:
    assert load_chat_format(copy).end_ids == [2]
    (copy / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert load_chat_format(copy).end_ids == [2, 7]
    (copy / "generation_config.json").unlink()
    edit(copy, eos_token_id=9)
    assert load_chat_format(copy).end_ids == [2, 9]
    edit(copy, eos_token_id=None)
    silent = AutoTokenizer.from_pretrained(copy)
    silent.eos_token = None
    silent.save_pretrained(copy)
    with pytest.raises(ModelError, match="names an end token"):
        load_chat_format(copy)
