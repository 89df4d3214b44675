"""Small random models of many architectures; windows and caps are low enough to matter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WINDOW = 16
VOCABULARY = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MOSTLY = ["sliding_attention", "full_attention"] * 2

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": _MOSTLY}),
    "gemma": ("gemma", {}),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW, "layer_types": _MOSTLY, "attn_logit_softcapping": 0.3,
            "final_logit_softcapping": 1.5, "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": (
        "gemma3_text", {"sliding_window": WINDOW, "layer_types": _MOSTLY, "query_pre_attn_scalar": 8}
    ),
    "glm4": ("glm4", {}),
    "gpt_bigcode": ("gpt_bigcode", {}),
    "gpt_neox": ("gpt_neox", {"use_parallel_residual": True}),
    "granite": (
        "granite",
        {
            "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "granite hybrid": (
        "granitemoehybrid",
        {"layer_types": ["attention"] * 4, "num_local_experts": 0, "shared_intermediate_size": 48,
         "logits_scaling": 4.0, "position_embedding_type": "rope", "mamba_n_heads": 8, "mamba_d_head": 8},
    ),
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "mixtral": ("mixtral", {"sliding_window": WINDOW, "num_local_experts": 4}),
    "nemotron": ("nemotron", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": WINDOW, "layer_types": _MOSTLY}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": (
        "qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    ),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW}),
}  # fmt: skip


def random_model(name: str) -> Any:
    """The model called `name` in the table; always the same, float32, eager attention."""
    kind, more = ARCHITECTURES[name]
    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **{**_SHAPE, **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that do nothing would hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(requires_grad=False)
