"""`adapter_config.json`: what of PEFT's LoRA can be served, and how an adapter is scaled.

PEFT has more than vLLM reads, and vLLM passes over what it does not know. A field that would
change what an adapter computes is refused here unless it has its neutral value. Which modules an
adapter changes is not asked here: its tensors tell.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.errors import AdapterError
from vllm_mega.jsonl import JsonError, decode
from vllm_mega.regular_file import read_regular

MAX_CONFIG = 4 << 20
"""Bytes of an `adapter_config.json`; with the names of ten thousand modules it is smaller."""

_NO_EFFECT = frozenset({
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",  # these four: the tensors tell
    "layers_pattern",
    "layers_to_transform",
    "target_modules",
    "fan_in_fan_out",  # how PEFT merges; A and B are the same
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
})  # fmt: skip
"""Fields that describe an adapter, or how it was trained, but not what it computes."""

_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Inits that leave the base weights alone."""
_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")
"""Inits that change the base weights, and that PEFT can make plain adapters of."""
_CONVERT = (
    "It was trained on changed base weights: make it a plain LoRA with PEFT's save_pretrained("
    "path_initial_model_for_weight_conversion=...), which needs the adapter as it was before training; "
    "without that, train again with init_lora_weights=True"
)
_RETRAIN = (
    "It was trained on other base weights (quantised ones, with LoftQ) than will be served: train again with "
    "init_lora_weights=True"
)

_WHY = {
    "use_dora": "DoRA is not served: train with use_dora=False",
    "trainable_token_indices": "Trained tokens are not served: train without trainable_token_indices",
    "target_parameters": "LoRA on bare parameters (fused experts) is not served: train with target_modules",
    "lora_bias": "Biases are not served: train with lora_bias=False",
    "alora_invocation_tokens": "Activated LoRA is not served: train without alora_invocation_tokens",
    "layer_replication": "Repeated layers are not served: train without layer_replication",
}


class PeftConfig(msgspec.Struct, frozen=True):
    """The fields that decide what the adapter computes."""

    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] | None = None
    """Ranks of some modules, by a regular expression for the last parts of their names."""
    alpha_pattern: dict[str, float] | None = None
    """Their `lora_alpha`."""
    bias: str = "none"
    modules_to_save: Any = None

    def scale(self, rank: int, alpha: float) -> float:
        """What B times A is multiplied by, in a module of this rank and `lora_alpha`."""
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(path: Path) -> PeftConfig:
    """Read `adapter_config.json` and refuse what cannot be served.

    Raises:
        AdapterError: missing, not JSON, not LoRA, or with a feature that would silently be lost.
        OSError: it cannot be read.
    """
    try:
        content = read_regular(path, MAX_CONFIG)
    except FileNotFoundError as error:
        raise AdapterError(
            path,
            expected="the adapter's PEFT configuration",
            found="no such file",
            change="Give the folder that PEFT's save_pretrained wrote",
        ) from error
    try:
        fields = decode(content, dict[str, object])
        kind = fields.get("peft_type")
        if kind != "LORA":
            raise AdapterError(
                path, expected='peft_type "LORA"', found=repr(kind), change="Only LoRA adapters are served"
            )
        config = decode(content, PeftConfig)
    except JsonError as error:
        raise AdapterError(
            path, expected="a PEFT LoRA configuration", found=str(error), change="Export the adapter again"
        ) from error
    _refuse_features(path, fields)
    _refuse_values(path, config)
    return config


def _refuse_features(path: Path, fields: dict[str, object]) -> None:
    used = {field.name for field in msgspec.structs.fields(PeftConfig)}
    for name in sorted(fields.keys() - used - _NO_EFFECT):
        if fields[name]:
            raise AdapterError(
                path,
                expected=f"{name} unset",
                found=f"{fields[name]!r}",
                change=_WHY.get(name, "It would be ignored when serving; train a plain LoRA without it"),
            )


def _refuse_values(path: Path, config: PeftConfig) -> None:
    def refuse(expected: str, found: object, change: str) -> None:
        raise AdapterError(path, expected=expected, found=repr(found), change=change)

    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    if smallest := [rank for rank in (config.r, *ranks.values()) if rank < 1]:
        refuse("a rank r of at least 1", smallest[0], "Export the adapter again")
    if strange := [alpha for alpha in (config.lora_alpha, *alphas.values()) if not math.isfinite(alpha)]:
        refuse("a finite lora_alpha", strange[0], "Export the adapter again")
    if config.lora_alpha == 0.0 and not any(alphas.values()):
        refuse("a lora_alpha that is not 0", config.lora_alpha, "With 0 the adapter does nothing")
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        change = _CONVERT if init.lower().startswith(_CONVERTIBLE) else _RETRAIN
        refuse("init_lora_weights that leaves the base model alone", init, change)
