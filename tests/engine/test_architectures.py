"""What vLLM puts LoRA on, asked of vLLM: our list of refusals is its list."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.model_executor.models.interfaces import supports_lora
from vllm.model_executor.models.registry import _VLLM_MODELS

from vllm_mega.models.architectures import NO_LORA

NEEDS_IMAGES = {
    "gemma3", "gemma4", "gemma4_unified", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen4_exp", "qwen4_exp_text",
}  # fmt: skip
"""Their code in vLLM imports torchvision, which is not installed with us."""


def known() -> dict[str, str]:
    """Architecture of each type of model that transformers and vLLM both run by code of vLLM's own."""
    return {
        kind: architecture
        for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if architecture in _VLLM_MODELS and (kind not in NEEDS_IMAGES or find_spec("torchvision"))
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_has_no_lora_is_what_we_refuse() -> None:
    without = set()
    for kind, architecture in known().items():
        module, name = _VLLM_MODELS[architecture][:2]
        path = module if "." in module else f"vllm.model_executor.models.{module}"
        if not supports_lora(getattr(import_module(path), name)):
            without.add(kind)
    assert without == NO_LORA
