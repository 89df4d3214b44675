"""What vLLM puts LoRA on, asked of vLLM: our list of refusals is its list."""

from __future__ import annotations

import json
import subprocess
import sys

from vllm_mega.models.architectures import NO_LORA

# In a process of its own: models of vLLM import what its engine cannot be started beside (llvmlite).
ASK = """
import json
from importlib import import_module
from importlib.util import find_spec
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.model_executor.models.interfaces import supports_lora
from vllm.model_executor.models.registry import _VLLM_MODELS

# Their code in vLLM imports torchvision, which is not installed with us.
images = {
    "gemma3", "gemma4", "gemma4_unified", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen4_exp", "qwen4_exp_text",
}
without = []
for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
    # Types of models that transformers and vLLM both run by code of vLLM's own.
    if architecture not in _VLLM_MODELS or (kind in images and not find_spec("torchvision")):
        continue
    module, name = _VLLM_MODELS[architecture][:2]
    path = module if "." in module else f"vllm.model_executor.models.{module}"
    if not supports_lora(getattr(import_module(path), name)):
        without.append(kind)
print(json.dumps(without))
"""


def test_what_has_no_lora_is_what_we_refuse() -> None:
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert set(json.loads(asked.stdout.splitlines()[-1])) == NO_LORA
