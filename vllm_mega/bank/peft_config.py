"""`adapter_config.json`: what of PEFT's LoRA can be served, and which modules it names. Pure.

PEFT has more than vLLM reads, and vLLM passes over what it does not know. A field that would
change what an adapter computes is refused here unless it has its neutral value.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec

from vllm_mega.errors import AdapterError

_NO_EFFECT = frozenset({
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
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

_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Inits that leave the base weights alone; the others (PiSSA, OLoRA, CorDA, LoftQ) change them."""

_WHY = {
    "use_dora": "DoRA is not served; train a plain LoRA",
    "modules_to_save": "Whole modules are not served; train LoRA only",
    "rank_pattern": "One rank for all modules, please: pad A and B with zeros to the largest",
    "alpha_pattern": "One lora_alpha for all modules, please: scale B instead",
    "trainable_token_indices": "Trained tokens are not served; train LoRA on linear layers only",
    "target_parameters": "LoRA on bare parameters (fused experts) is not served",
}


class PeftConfig(msgspec.Struct, frozen=True):
    """The fields that decide what the adapter computes."""

    peft_type: str
    r: int
    lora_alpha: float
    target_modules: str | list[str]
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    bias: str = "none"

    def targets(self, module: str) -> bool:
        """Whether PEFT would attach LoRA to `module` (path in the base model)."""
        if self.exclude_modules and _names(self.exclude_modules, module):
            return False
        if self.target_modules == "all-linear":
            return True
        if not _names(self.target_modules, module):
            return False
        exact = isinstance(self.target_modules, str) or module in self.target_modules
        return exact or self._layer_is_chosen(module)

    def _layer_is_chosen(self, module: str) -> bool:
        chosen = self.layers_to_transform
        if chosen is None or chosen == []:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}" for pattern in _as_list(self.layers_pattern)]
        for pattern in patterns or [r".*?\.[^.]*"]:
            match = re.match(rf"{pattern}\.(\d+)\.", module)
            if match:
                layer = int(match.group(1))
                return layer == chosen if isinstance(chosen, int) else layer in chosen
        return False

    def entries(self) -> list[str]:
        """The entries of `target_modules`; each must have tensors."""
        return [] if isinstance(self.target_modules, str) else self.target_modules


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value or ())


def _names(spec: str | list[str], module: str) -> bool:
    """PEFT's rule: a string is a pattern for the whole path, a list holds its last parts."""
    if isinstance(spec, str):
        return re.fullmatch(spec, module) is not None
    return any(ends_with(module, entry) for entry in spec)


def ends_with(module: str, entry: str) -> bool:
    """Whether `entry` is `module` or its last parts."""
    return module == entry or module.endswith("." + entry)


def read_peft_config(path: Path, max_rank: int | None) -> PeftConfig:
    """Read `adapter_config.json` and refuse what cannot be served.

    Raises:
        AdapterError: missing, not JSON, not LoRA, or with a feature that would silently be lost.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise AdapterError(
            path,
            expected="the adapter's PEFT configuration",
            found="no such file",
            change="Give the folder that PEFT's save_pretrained wrote",
        ) from error
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
        kind = fields.get("peft_type")
        if kind != "LORA":
            raise AdapterError(
                path, expected='peft_type "LORA"', found=repr(kind), change="Only LoRA adapters are served"
            )
        config = msgspec.json.decode(data, type=PeftConfig)
    except msgspec.MsgspecError as error:
        raise AdapterError(
            path, expected="a PEFT LoRA configuration", found=str(error), change="Export the adapter again"
        ) from error
    _refuse_features(path, fields)
    _refuse_values(path, config, max_rank)
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


def _refuse_values(path: Path, config: PeftConfig, max_rank: int | None) -> None:
    def refuse(expected: str, found: object, change: str) -> None:
        raise AdapterError(path, expected=expected, found=repr(found), change=change)

    if config.bias != "none":
        refuse('bias "none"', config.bias, "Biases are not served; train without")
    if config.r < 1:
        refuse("a rank r of at least 1", config.r, "Export the adapter again")
    if max_rank is not None and config.r > max_rank:
        refuse(
            f"a rank r of at most {max_rank}", config.r, "Raise the limit (max_lora_rank), or train at less"
        )
    if not math.isfinite(config.lora_alpha) or config.lora_alpha == 0.0:
        refuse("a lora_alpha that is not 0", config.lora_alpha, "With 0 the adapter does nothing")
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        refuse(
            "init_lora_weights that leaves the base model alone",
            init,
            "Convert it to a plain LoRA (PEFT: path_initial_model_for_weight_conversion)",
        )
    patterns = [spec for spec in (config.target_modules, config.exclude_modules) if isinstance(spec, str)]
    for pattern in patterns + _as_list(config.layers_pattern):
        try:
            re.compile(pattern)
        except re.error as error:
            refuse("a regular expression", pattern, str(error))
