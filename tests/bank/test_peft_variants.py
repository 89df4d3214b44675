"""PEFT writes an adapter, `bank add` makes a plain one of it: the same logits, or a refusal that says why."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.bank.peft_edits import CONFIG, WEIGHTS, config, save
from tests.bank.peft_variants import BEGIN, END, VARIANTS, Variant, render, with_table
from vllm_mega.bank.adapter import AdapterFacts, check_adapter
from vllm_mega.bank.peft_config import _NO_EFFECT, PeftConfig
from vllm_mega.bank.peft_import import find_adapter, import_adapter
from vllm_mega.errors import AdapterError
from vllm_mega.models import BaseWeights

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CLOSE = 1e-5
"""Of the logits' largest; in float32."""
ROUGH = 1e-2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with biases, in float32."""
    torch.manual_seed(1)
    made = Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("base")
    model = Qwen2ForCausalLM(made)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.1)
    model.save_pretrained(path)
    return path


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def written(base: Path, variant: Variant, folder: Path) -> Any:
    """The adapter of `variant` in `folder`; its model."""
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's, about what we ask it for
        fields = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], **variant.config}
        model = get_peft_model(load(base), LoraConfig(**fields)).eval()
        if str(fields.get("init_lora_weights", True)) in ("pissa", "olora"):
            # What conversion needs, and overwrites the configuration of: the adapter before training.
            made = model.peft_config["default"].init_lora_weights
            model.peft_config["default"].init_lora_weights = True
            save(model, folder.parent / "initial")
            model.peft_config["default"].init_lora_weights = made
        variant.train(model)
        variant.save(model, folder)
    variant.change(folder)
    return model


def added(folder: Path, base: Path, target: Path) -> AdapterFacts:
    target.mkdir()
    weights = BaseWeights(base)
    import_adapter(find_adapter(folder), target, weights)
    return check_adapter(target, weights.shapes)


def served(base: Path, folder: Path) -> torch.Tensor:
    """Logits with a plain adapter, as vLLM computes them: alpha / r times B A, by the tensors' names."""
    model, tensors = load(base), load_file(folder / WEIGHTS)
    made = msgspec.json.decode((folder / CONFIG).read_bytes())
    with torch.no_grad():
        for name in tensors:
            if name.endswith(".lora_A.weight"):
                a, b = tensors[name].double(), tensors[name.replace("lora_A", "lora_B")].double()
                module = model.get_submodule(
                    name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                )
                module.weight += (made["lora_alpha"] / made["r"] * (b @ a)).float()
    return logits(model)


def theirs(base: Path, variant: Variant, folder: Path, model: Any) -> torch.Tensor:
    """Logits that PEFT computes in float32; `model` is what was saved in `folder`."""
    return logits(PeftModel.from_pretrained(load(base), folder).float().eval() if variant.rounds else model)


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.expected != "refused"], ids=lambda variant: variant.name
)
def test_as_peft_computes_it(base: Path, tmp_path: Path, variant: Variant) -> None:
    model = written(base, variant, tmp_path / "adapter")
    facts = added(tmp_path / "adapter", base, tmp_path / "plain")
    expected = theirs(base, variant, tmp_path / "adapter", model)
    untouched, ours = logits(load(base)), served(base, tmp_path / "plain")
    size = expected.abs().max()
    assert (ours - expected).abs().max() < (CLOSE if variant.expected == "exact" else ROUGH) * size
    assert (expected - untouched).abs().max() > 1000 * CLOSE * size, "the adapter does nothing to compare"
    rank = max(module.r["default"] for _, module in model.named_modules() if getattr(module, "r", None))
    assert facts.rank in (rank, 2 * rank)  # conversion doubles it


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.expected != "refused"][:8], ids=lambda variant: variant.name
)
def test_a_plain_adapter_is_one_of_peft_s(base: Path, tmp_path: Path, variant: Variant) -> None:
    """What lies in a bank can be taken elsewhere, and added again."""
    written(base, variant, tmp_path / "adapter")
    added(tmp_path / "adapter", base, tmp_path / "plain")
    again = logits(PeftModel.from_pretrained(load(base), tmp_path / "plain").eval())
    assert (again - served(base, tmp_path / "plain")).abs().max() < CLOSE * again.abs().max()
    first, second = added(tmp_path / "plain", base, tmp_path / "again"), tmp_path / "again"
    assert first == check_adapter(tmp_path / "plain", BaseWeights(base).shapes)
    assert (second / WEIGHTS).read_bytes() == (tmp_path / "plain" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.expected == "refused"], ids=lambda variant: variant.name
)
def test_what_is_refused_says_why(
    base: Path, tmp_path: Path, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_mega.bank.patterns.SECONDS", 1)
    written(base, variant, tmp_path / "adapter")
    with pytest.raises(AdapterError) as caught:
        added(tmp_path / "adapter", base, tmp_path / "plain")
    assert variant.remark in str(caught.value)
    assert str(tmp_path / "adapter") in str(caught.value)
    assert caught.value.change


@pytest.mark.parametrize("kind", [kind for kind in PeftType if kind != PeftType.LORA])
def test_every_other_type_of_peft_is_refused(base: Path, tmp_path: Path, kind: PeftType) -> None:
    written(base, VARIANTS[0], tmp_path / "adapter")
    config(tmp_path / "adapter", peft_type=kind.value)
    with pytest.raises(AdapterError, match="Only LoRA adapters are served"):
        added(tmp_path / "adapter", base, tmp_path / "plain")


def test_every_field_of_peft_s_is_known() -> None:
    """Read, without effect, or refused by a row of the table."""
    read = {field.name for field in msgspec.structs.fields(PeftConfig)} | _NO_EFFECT
    names = " ".join(f"{variant.name} {variant.remark} {variant.config}" for variant in VARIANTS)
    fields = {field.name for field in dataclasses.fields(LoraConfig)} - read
    assert {name for name in fields if name not in names} <= {
        "alora_invocation_tokens",  # aLoRA
        "runtime_config",  # never saved
    }


def test_the_table_of_the_docs_is_that_of_the_tests(repo: Path) -> None:
    text = (repo / "docs" / "adapters.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "write it again: python -m tests.bank.peft_variants docs/adapters.md"
    assert render().count("\n| ") == len(VARIANTS) + 1
    with pytest.raises(ValueError, match="begin"):
        with_table(f"{END}{BEGIN}")
