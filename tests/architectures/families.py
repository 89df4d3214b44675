"""Every architecture that is checked, what is expected of it, and what docs/models.md says about it.

A family is tried on a small random model of 3 layers (see `small_models`), with default settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["exact", "works", "refused"]

GATED_MLP = ("down_proj", "gate_proj", "up_proj")
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
WINDOW = 16
"""Of sliding attention: shorter than the texts of all checks."""
EVERY_OTHER = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Family:
    """One architecture that can be trained."""

    name: str
    model_type: str
    """As in config.json."""
    modules: tuple[str, ...]
    """Linear layers that get an adapter when no option is given, sorted."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the small model's config, beside those that all have."""
    expected: Status = "exact"
    note: str = ""
    """For the table: what is special and was on in the check."""
    as_served: dict[str, Any] = field(default_factory=dict)
    """Config fields of the model that vLLM computes instead; for it PEFT's model is given them too."""
    cpu_refusal: str = ""
    """Regular expression: what is said where vLLM on CPUs is asked to serve it. Empty: it serves it."""

    @property
    def folder(self) -> str:
        """A name for its files."""
        return self.model_type


@dataclass(frozen=True)
class Refusal:
    """A model that is refused before anything is trained."""

    name: str
    spoil: str
    """What is done to the small model after it was saved (a key of `small_models.SPOILS`)."""
    words: str
    """Regular expression that the message matches: what was found, and the option or model that helps."""
    why: str
    """For the table."""
    model_type: str = "llama"
    fields: dict[str, Any] = field(default_factory=dict)


_MOE = {"num_experts": 4, "num_experts_per_tok": 2}
_MOE_NOTE = "adapters on attention; served on GPUs (not tried), refused at start on CPUs"
_MOE_REFUSAL = r"(?i)experts.*cpu|cpu.*experts"

FAMILIES = (
    Family("Llama", "llama", GATED_MLP, note="SmolLM2 too"),
    Family("Qwen2", "qwen2", GATED_MLP, note="Qwen2.5 too"),
    Family("Qwen3", "qwen3", GATED_MLP, note="norms of queries and keys"),
    Family("Mistral", "mistral", GATED_MLP, {"sliding_window": WINDOW}, note="sliding window"),
    Family("Gemma", "gemma", GATED_MLP, note="norms of 1 + w"),
    Family(
        "Gemma 2",
        "gemma2",
        GATED_MLP,
        {
            "initializer_range": 0.05,  # else every logit is at its cap
            "sliding_window": WINDOW,
            "layer_types": EVERY_OTHER,
            "final_logit_softcapping": 1.0,
            "attn_logit_softcapping": 0.5,
            "query_pre_attn_scalar": 20,
        },
        note="sliding window, soft caps of logits and attention",
    ),
    Family(
        "Gemma 3 (text)",
        "gemma3_text",
        GATED_MLP,
        {
            "initializer_range": 0.05,
            "sliding_window": WINDOW,
            "layer_types": EVERY_OTHER,
            "query_pre_attn_scalar": 20,
        },
        note="sliding window, two rotary bases",
    ),
    Family("OLMo 2", "olmo2", GATED_MLP, note="norms behind the blocks"),
    Family("SmolLM3", "smollm3", GATED_MLP, {"no_rope_layer_interval": 2}, note="layers without positions"),
    Family("Phi-3", "phi3", ("down_proj", "gate_up_proj"), {"sliding_window": WINDOW}, note="sliding window"),
    Family("Phi", "phi", ("fc1", "fc2"), note="part of each head rotates; Phi-1, 1.5 and 2"),
    Family("Starcoder2", "starcoder2", ("c_fc", "c_proj"), {"sliding_window": WINDOW}, note="sliding window"),
    Family(
        "GPT-NeoX",
        "gpt_neox",
        ("dense_4h_to_h", "dense_h_to_4h"),
        {"num_key_value_heads": None, "head_dim": None},
        note="Pythia",
    ),
    Family(
        "Granite",
        "granite",
        GATED_MLP,
        {
            "embedding_multiplier": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
            "logits_scaling": 3.0,
        },
        note="multipliers of embeddings, residuals, attention and logits",
    ),
    Family("Cohere", "cohere", GATED_MLP, {"logit_scale": 0.25}, note="scaled logits"),
    Family(
        "Cohere 2",
        "cohere2",
        GATED_MLP,
        {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": EVERY_OTHER},
        "works",
        "scaled logits; vLLM's sliding window is one token wider than transformers': exact within it",
        as_served={"sliding_window": WINDOW + 1},
    ),
    Family(
        "Mixtral",
        "mixtral",
        ATTENTION,
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        "works",
        _MOE_NOTE,
        cpu_refusal=_MOE_REFUSAL,
    ),
    Family(
        "Qwen3 MoE",
        "qwen3_moe",
        ATTENTION,
        _MOE | {"moe_intermediate_size": 64, "decoder_sparse_step": 1},
        "works",
        _MOE_NOTE,
        cpu_refusal=_MOE_REFUSAL,
    ),
    Family("OLMoE", "olmoe", ATTENTION, _MOE, "works", _MOE_NOTE, cpu_refusal=_MOE_REFUSAL),
)

_NO_LORA = "vLLM 0.32 runs it without LoRA"
_PLAIN_WEIGHTS = "train on the unquantised model of the same name (`--model`)"

REFUSALS = (
    Refusal("StableLM", "nothing", r"(?i)stablelm.*lora.*--model", _NO_LORA, "stablelm"),
    Refusal("GPT-2", "nothing", r"(?i)gpt-?2.*(lora|conv1d).*--model", _NO_LORA, "gpt2"),
    Refusal("Falcon", "nothing", r"(?i)falcon.*lora.*--model", _NO_LORA, "falcon", {"head_dim": None}),
    Refusal("AWQ", "awq", r"(?i)awq.*--model|--model.*awq", _PLAIN_WEIGHTS),
    Refusal(
        "bitsandbytes", "bitsandbytes", r"(?i)bitsandbytes.*--model|--model.*bitsandbytes", _PLAIN_WEIGHTS
    ),
    Refusal("GPTQ", "gptq", r"(?i)gptq.*--model|--model.*gptq", _PLAIN_WEIGHTS),
    Refusal(
        "saved without its head",
        "headless",
        r"lm_head|(?i:without its head)",
        "save the whole causal language model (`AutoModelForCausalLM`)",
    ),
    Refusal(
        "no chat template",
        "no template",
        r"(?i)chat template.*--\S*template",
        "choose a plain one by the option that the message names",
    ),
)
