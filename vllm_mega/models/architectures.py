"""Every name that differs between architectures: layers, linear modules, what becomes of logits. No torch.

Known by `model_type` of the config; a type that is not in the table is taken for one that calls its parts as
Llama does, which most do. What is refused, and why, stands here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vllm_mega.errors import ModelError
from vllm_mega.models.functional import text_config

Config = Mapping[str, Any]
"""A config.json, or what `to_dict` of a config gives."""


class Architecture(NamedTuple):
    """Where the parts of a decoder are."""

    layers: str
    """Path of the list of layers; the module that holds it runs them."""
    mlp: tuple[str, ...]
    """Last name parts of the linear layers of its MLP ..."""
    attention: tuple[str, ...]
    """... and of its attention."""


_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = Architecture("model.layers", ("gate_proj", "up_proj", "down_proj"), _QKVO)
_FUSED_GATE = _LLAMA._replace(mlp=("gate_up_proj", "down_proj"))
_NO_GATE = _LLAMA._replace(mlp=("up_proj", "down_proj"))
_INPUT_OUTPUT = _LLAMA._replace(mlp=("input_linear", "output_linear"))

_TABLE = {
    "apertus": _NO_GATE,
    "arcee": _NO_GATE,
    "gemma3": _LLAMA._replace(layers="model.language_model.layers"),
    "glm": _FUSED_GATE,
    "glm4": _FUSED_GATE,
    "gpt_bigcode": Architecture("transformer.h", ("c_fc", "c_proj"), ("c_attn", "c_proj")),
    "gpt_neox": Architecture(
        "gpt_neox.layers", ("dense_h_to_4h", "dense_4h_to_h"), ("query_key_value", "dense")
    ),
    "granitemoehybrid": _INPUT_OUTPUT,
    "jais2": _NO_GATE,
    "nemotron": _NO_GATE,
    "opt": Architecture("model.decoder.layers", ("fc1", "fc2"), ("q_proj", "k_proj", "v_proj", "out_proj")),
    "phi": _LLAMA._replace(mlp=("fc1", "fc2"), attention=("q_proj", "k_proj", "v_proj", "dense")),
    "phi3": _FUSED_GATE._replace(attention=("qkv_proj", "o_proj")),
    "starcoder2": _LLAMA._replace(mlp=("c_fc", "c_proj")),
}

KINDS = ("mlp", "attention", "all")
"""What may be said instead of names of linear layers."""

EXPERTS = frozenset({"experts", "gate", "router", "shared_expert", "shared_experts", "shared_expert_gate"})
"""Parts of a mixture of experts, by any part of a module's name: no adapters there."""

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
_CONTEXTS = ("max_position_embeddings", "n_positions")
_FEWEST_LAYERS = 10
_ATTENTION = {"full_attention", "sliding_attention", "attention"}
"""Types of layers that packed rows can run."""

HEAD = "lm_head.weight"
"""The weights of the head, where a checkpoint saves them by themselves."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
"""How the names of the embeddings of tokens end, which are the head where the two are tied."""
TIED_HEADS = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
"""Heads that some save although they are the embeddings."""
HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output|head)\.weight$")
"""Whatever may be a head."""
NOT_LINEAR = ("lm_head", "embed", "wte", "wpe")
"""How the last name parts begin of modules with a matrix that are no linear layers."""

GATED_MLP = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""Parts of an MLP that computes down(act(gate(x)) * up(x))."""
NORM = "RMSNorm"
"""How the classes of norms over the root of the mean square are called."""
NORM_EPSILONS = ("variance_epsilon", "eps")
"""How they call what they add to the mean square."""
ROTARY = "apply_rotary_pos_emb"
"""The function that transformers' attention calls for rotary embeddings."""

CONV1D = frozenset({"gpt2", "openai-gpt", "imagegpt"})
"""Model types whose linear layers are transformers' Conv1D: weights [I, O]."""
NO_LORA = frozenset({
    "bloom", "cohere2_moe", "dbrx", "deepseek_v4", "falcon", "falcon_mamba", "gemma3n", "gemma3n_text",
    "gpt-sw3", "gpt2", "gptj", "hrm_text", "kimi_linear", "mamba", "mamba2", "mimo_v2_flash", "stablelm",
    "zamba2",
})  # fmt: skip
"""Types that vLLM 0.32 runs without LoRA (tests/engine/test_architectures.py asks it)."""

_RECURRENT = frozenset({
    "bamba", "falcon_h1", "jamba", "lfm2", "lfm2_moe", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5",
    "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text",
    "recurrent_gemma", "rwkv", "xlstm", "zamba",
})  # fmt: skip
_LATENT = frozenset({
    "axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm5_next", "glm_moe_dsa",
    "longcat_flash", "minicpm3", "mistral4", "youtu",
})  # fmt: skip
_SINKS = frozenset({"gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4"})
_WITH_PEFT = "Train adapters with PEFT and add them (vllm-mega bank add), or choose another model (--model)"


def architecture(config: Config) -> Architecture:
    """The names of the model with this config."""
    return _TABLE.get(str(config.get("model_type")), _LLAMA)


def require_trainable(config: Config) -> None:
    """Refuse what memories cannot be trained on or served with.

    Raises:
        ModelError: it cannot, why, and what to do.
    """
    kind = str(config.get("model_type"))
    layers = set(text_config(config).get("layer_types") or text_config(config).get("layers_block_type") or ())
    if kind in NO_LORA:
        raise ModelError(
            f"vLLM 0.32 runs models of type {kind} without LoRA, so memories on them cannot be served. "
            "Choose another model (--model)"
        )
    if kind in _SINKS:
        reason = "attention sinks"
    elif kind in _LATENT:
        reason = "latent attention, whose keys and values differ in size"
    elif kind in _RECURRENT:
        reason = "layers that carry a state from token to token"
    elif layers - _ATTENTION:
        reason = f"layers of type {', '.join(sorted(layers - _ATTENTION))}"
    else:
        return
    raise ModelError(f"models of type {kind} have {reason}, which packed rows cannot run. {_WITH_PEFT}")


def experts(config: Config) -> int:
    """How many experts a layer chooses from; 0: the model is dense."""
    numbers = [text_config(config)[name] for name in _EXPERT_COUNTS if text_config(config).get(name)]
    most = max((max(n) if isinstance(n, list) else int(n) for n in numbers), default=0)
    return most if most > 1 else 0


def active_experts(config: Config) -> float:
    """The part of its experts that a token meets; 1: the model is dense, or does not say."""
    number, active = experts(config), text_config(config).get("num_experts_per_tok")
    return int(active) / number if number and active else 1.0


def module_names(config: Config, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Last name parts of the linear layers that get an adapter.

    Args:
        config: of the model.
        chosen: kinds (see `KINDS`) or names; None: the MLP's, or attention's of a mixture of experts.

    Raises:
        ModelError: the MLP of a mixture of experts was chosen.
    """
    names, sparse = architecture(config), experts(config) > 0
    if sparse and "mlp" in (chosen or ()):
        raise ModelError(
            f"the MLP of {config.get('model_type')} is a mixture of experts, which get no adapters; "
            "choose --modules attention"
        )
    kinds = {"mlp": names.mlp, "attention": names.attention, "all": () if sparse else names.mlp}
    kinds["all"] += names.attention
    if chosen is None:
        chosen = ("attention",) if sparse else ("mlp",)
    return tuple(dict.fromkeys(name for choice in chosen for name in kinds.get(choice, (choice,))))


def upper_layers(config: Config) -> int:
    """How many layers get adapters if nobody says: the upper third, but ten where there are so many.

    With six of Gemma 3 270M's eighteen, a third of the questions that ten answer were lost.

    Raises:
        ModelError: the config does not say how many layers there are.
    """
    text = text_config(config)
    depth = next((text[name] for name in _DEPTHS if isinstance(text.get(name), int)), None)
    if depth is None:
        raise ModelError(
            f"config.json of the model has none of {', '.join(_DEPTHS)}; say how many layers get adapters "
            "(--layers)"
        )
    return min(int(depth), max(_FEWEST_LAYERS, round(int(depth) / 3)))


def head_rule(config: Config) -> tuple[float, float | None]:
    """(scale, softcap): logits are softcap * tanh(scale * product / softcap); None: scale * product."""
    text = text_config(config)
    scale = float(text.get("logit_scale") or 1.0) / float(text.get("logits_scaling") or 1.0)
    return scale, text.get("final_logit_softcapping")


def context(config: Config) -> int | None:
    """The longest conversation that the model was made for, in tokens; None: the config does not say."""
    text = text_config(config)
    return next((int(text[name]) for name in _CONTEXTS if text.get(name)), None)


def window(config: Config) -> int | None:
    """The tokens that a layer with a sliding window sees; None: no layer has one."""
    text = text_config(config)
    size = text.get("sliding_window")
    return int(size) if size and text.get("use_sliding_window", True) else None
