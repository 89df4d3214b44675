"""What of a model's config decides what it computes, in one form for every way to write it. Pure, no torch.

A config is written otherwise by every version of transformers: fields get other names (`rope_theta`, later in
`rope_parameters`), defaults are written out or left out, and most fields are about training, generation or
the files. `functional` keeps a list of fields, each under one name, with the default of its model type where
it was left out. Shapes are not among them: tensors tell those. tests/models/test_functional.py compares the
defaults with those of the transformers that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim",),
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation"),
    "eps": (
        "rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "norm_eps",
        "layernorm_epsilon",
    ),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k"),
}  # fmt: skip
"""Fields with several names; the first that is there and not null counts."""

_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")

_FIELDS = (
    # how logits and hidden states are scaled or cut
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "logit_scale",
    "logits_scaling", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "clip_qkv",
    "scale_emb", "scale_depth", "dim_model_base", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
    "lm_head_multiplier", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier",
    "mlp_multipliers", "ssm_multipliers", "attn_temperature_tuning", "attn_scale", "floor_scale",
    # which way a token goes
    "qk_layernorm", "use_qk_norm", "use_parallel_residual", "parallel_attn", "alibi", "is_decoder",
    "use_bidirectional_attention", "position_embedding_type", "norm_topk_prob", "routed_scaling_factor",
    "scoring_func", "n_group", "topk_group", "topk_method", "moe_layer_freq", "first_k_dense_replace",
    "decoder_sparse_step", "mlp_only_layers", "attention_chunk_size", "num_kv_shared_layers",
    "quantization_config",
)  # fmt: skip
"""Fields with one name."""

_ONE = {
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "scale_emb",
    "lm_head_multiplier", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier",
    "routed_scaling_factor",
}  # fmt: skip
"""Factors: 1 says what leaving them out says."""

_COMMON: dict[str, Any] = {
    "activation": "silu", "eps": 1e-6, "theta": 10_000, "partial": 1, "tie": False,
    "position_embedding_type": "absolute", "scale_attn_weights": True,
}  # fmt: skip
_BERT = {"layers": 12, "heads": 12, "activation": "gelu", "eps": 1e-12, "tie": True}
_GEMMA = {"activation": "gelu_pytorch_tanh", "tie": True, "head_dim": 256}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"layers": 32, "heads": 32},
    "mistral": {"layers": 32, "heads": 32, "kv_heads": 8, "window": 4096},
    "qwen2": {"layers": 32, "heads": 32, "kv_heads": 32, "window": 4096, "from_layer": 28},
    "qwen3": {"layers": 32, "heads": 32, "kv_heads": 32, "head_dim": 128, "window": 4096, "from_layer": 28},
    "gemma": {**_GEMMA, "layers": 28, "heads": 16, "kv_heads": 16},
    "gemma2": {
        **_GEMMA, "layers": 26, "heads": 8, "kv_heads": 4, "window": 4096, "every": 2,
        "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50, "final_logit_softcapping": 30,
    },
    "gemma3_text": {
        **_GEMMA, "layers": 26, "heads": 8, "kv_heads": 4, "window": 4096, "every": 6,
        "query_pre_attn_scalar": 256, "theta": 1_000_000, "local_theta": 10_000,
    },
    "phi": {"layers": 24, "heads": 32, "activation": "gelu_new", "eps": 1e-5, "partial": 0.5},
    "phi3": {"layers": 32, "heads": 32, "eps": 1e-5},
    "gpt_neox": {
        "layers": 44, "heads": 64, "activation": "gelu", "eps": 1e-5, "partial": 0.25,
        "use_parallel_residual": True,
    },
    "starcoder2": {
        "layers": 30, "heads": 24, "kv_heads": 2, "activation": "gelu_pytorch_tanh", "eps": 1e-5, "tie": True,
    },
    "olmo": {"layers": 32, "heads": 32},
    "olmo2": {"layers": 32, "heads": 32, "eps": 1e-5},
    "smollm3": {
        "layers": 36, "heads": 16, "kv_heads": 4, "theta": 2_000_000, "no_rope_every": 4, "tie": True,
    },
    "granite": {"layers": 32, "heads": 32},
    "cohere": {
        "layers": 40, "heads": 64, "eps": 1e-5, "theta": 500_000, "logit_scale": 0.0625, "tie": True,
    },
    "cohere2": {
        "layers": 40, "heads": 64, "eps": 1e-5, "logit_scale": 0.0625, "tie": True, "window": 4096,
        "every": 4,
    },
    "stablelm": {"layers": 32, "heads": 32, "kv_heads": 32, "eps": 1e-5, "partial": 0.25},
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mpnet": _BERT,
    "distilbert": {**_BERT, "layers": 6},
    "modernbert": {
        "layers": 22, "heads": 12, "activation": "gelu", "eps": 1e-5, "tie": True, "window": 128,
        "theta": 160_000, "local_theta": 10_000, "full_every": 3,
    },
    "gpt2": {"layers": 12, "heads": 12, "activation": "gelu_new", "eps": 1e-5, "tie": True},
}  # fmt: skip
"""By model type, what differs from `_COMMON` where it is left out. Other types: `_COMMON` alone."""

_SWITCHED = {"qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "smollm3"}
"""Types whose window counts only with `use_sliding_window`."""
_SAME_ACTIVATION = {"swish": "silu", "gelu_fast": "gelu_new"}


def text_config(config: Config) -> dict[str, Any]:
    """The part of `config` that is about the language model: all of it, but for models of several kinds."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return dict(config)
    outer = {name: config[name] for name in ("tie_word_embeddings", "quantization_config") if name in config}
    return {"model_type": f"{config.get('model_type')}_text", **inner, **outer}


def is_tied(config: Config) -> bool | None:
    """Whether the head is the embedding; None: left out, and the default of the model type is not known."""
    text = text_config(config)
    tie = text.get("tie_word_embeddings")
    if tie is None and text.get("model_type") not in _DEFAULTS:
        return None
    return bool(_defaults(text)["tie"] if tie is None else tie)


def functional(config: Config) -> dict[str, Any]:
    """What `config` says about what is computed, however it is written.

    Model type; layers, heads, their size; activation; epsilon of norms; rotary embedding (base, part,
    scaling; of both kinds of layers), layers without; the window of every layer; factors and caps of logits,
    scores and hidden states; routing of experts; whether the head is tied; quantisation. Numbers are rounded
    to six digits: a value that went through float32 is the same. What is null, false or without effect is
    left out.

    Args:
        config: content of a config.json; of a model of several kinds, the part about text is looked at.
    """
    text = text_config(config)
    known = _defaults(text)
    values = {name: _first(text, names, known.get(name)) for name, names in _NAMES.items()}
    values |= {name: text.get(name, known.get(name)) for name in _FIELDS}
    values["kv_heads"] = values["kv_heads"] or values["heads"]
    if not values["head_dim"] and values["heads"]:
        values["head_dim"] = _first(text, _WIDTHS, 0) // values["heads"]
    values["activation"] = _SAME_ACTIVATION.get(values["activation"], values["activation"])
    values["position_embedding_type"] = _unless(values["position_embedding_type"], "absolute")
    layers = int(values["layers"] or 0)
    values |= {
        "model_type": text.get("model_type"),
        "tie": _given(text, "tie_word_embeddings", known["tie"]),
        "windows": _windows(text, known, layers),
        "rope": _rope(text, known),
        "without_rope": _without_rope(text, known, layers),
    }
    kept = {name: _plain(value) for name, value in values.items() if not (name in _ONE and value == 1)}
    return {name: kept[name] for name in sorted(kept) if kept[name] not in (None, False, [], {})}


def _defaults(text: Config) -> dict[str, Any]:
    return {**_COMMON, **_DEFAULTS.get(str(text.get("model_type")), {})}


def _given(text: Config, name: str, default: Any) -> Any:
    value = text.get(name)
    return default if value is None else value


def _first(text: Config, names: tuple[str, ...], default: Any) -> Any:
    return next((text[name] for name in names if text.get(name) is not None), default)


def _unless(value: Any, neutral: Any) -> Any:
    return None if value == neutral else value


def _windows(text: Config, known: Config, layers: int) -> list[Any]:
    """Of every layer: its window, None for all of the context, or the name of a kind that has neither."""
    window = _given(text, "local_attention", text.get("sliding_window", known.get("window")))
    if text.get("model_type") in _SWITCHED and not text.get("use_sliding_window"):
        window = None
    kinds = text.get("layer_types") or _kinds(text, known, layers)
    of_kind = {"sliding_attention": window, "full_attention": None}
    windows = [of_kind.get(kind, kind) for kind in kinds]
    return windows if any(windows) else []


def _kinds(text: Config, known: Config, layers: int) -> list[str]:
    """Kinds of layers, where the config is too old to name them."""
    every = _given(text, "sliding_window_pattern", known.get("every"))
    full_every = _given(text, "global_attn_every_n_layers", known.get("full_every"))
    first = text.get("max_window_layers", known.get("from_layer", 0)) or 0

    def is_full(layer: int) -> bool:
        if every:
            return bool((layer + 1) % every == 0)
        return bool(layer % full_every == 0) if full_every else layer < first

    return ["full_attention" if is_full(layer) else "sliding_attention" for layer in range(layers)]


def _rope(text: Config, known: Config) -> list[dict[str, Any]]:
    """The rotary embedding: of all layers, or of those that see everything and of those with a window."""
    new = text.get("rope_parameters") or {}
    if "full_attention" in new:
        both = new["full_attention"], new.get("sliding_attention") or {}
        thetas = known["theta"], known.get("local_theta", known["theta"])
        return [_one_rope(rope, text, known, theta) for rope, theta in zip(both, thetas, strict=True)]
    old = text.get("rope_scaling") or {}
    theta = _first(text, ("global_rope_theta", "rope_theta", "rotary_emb_base"), known["theta"])
    full = _one_rope({**old, **new}, text, known, theta)
    local = _first(text, ("rope_local_base_freq", "local_rope_theta"), known.get("local_theta"))
    return [full] if local is None else [full, _one_rope({}, text, known, local)]


def _one_rope(rope: Config, text: Config, known: Config, theta: Any) -> dict[str, Any]:
    """One rotary embedding; `theta` and what else stands elsewhere in old configs, where it has none."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    kind = "longrope" if kind == "su" else kind
    partial = _first(text, ("partial_rotary_factor", "rotary_pct"), known["partial"])
    rotary = {
        "type": kind,
        "theta": _given(rope, "rope_theta", theta),
        "partial": _given(rope, "partial_rotary_factor", partial),
    }
    if kind == "default":
        return rotary
    longest = text.get("max_position_embeddings")
    rotary["original"] = _first({**text, **rope}, ("original_max_position_embeddings",), longest)
    if kind in ("longrope", "dynamic"):
        rotary["longest"] = longest
    said = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
    return {
        **rotary,
        **{name: value for name, value in rope.items() if name not in said and value is not None},
    }


def _without_rope(text: Config, known: Config, layers: int) -> list[int]:
    """Indices of the layers without rotary embedding."""
    flags = text.get("no_rope_layers")
    every = _given(text, "no_rope_layer_interval", known.get("no_rope_every"))
    if not flags:
        flags = [(layer + 1) % every != 0 for layer in range(layers)] if every else []
    return [layer for layer, flag in enumerate(flags) if not flag]


def _plain(value: Any) -> Any:
    """`value` with keys in order and numbers as floats of six digits."""
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(f"{value:.6g}")
