"""The model manager: vLLM's LoRA layers and slots, fed with routes instead of single ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import DEFAULT_LANGUAGE_WRAPPER_KEY, LRUCacheLoRAModelManager

from vllm_mega.engine.punica import MegaPunicaWrapperCPU
from vllm_mega.engine.routing import Route, routing_table
from vllm_mega.errors import AdapterError, ConfigError


class MegaLoRAModelManager(LRUCacheLoRAModelManager):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Gives slots to linear layers, keeps adapters in them, and routes tokens to them.

    Embedding, logits and expert layers get no slots: adapters that want them are refused when loaded.
    """

    punica_wrapper: MegaPunicaWrapperCPU
    supported_lora_modules: list[str]

    def _init_punica_wrapper(self, max_num_batched_tokens: int, vllm_config: Any) -> None:
        if self.device.type != "cpu":
            raise ConfigError(
                f"vllm_mega has no kernels for {self.device.type!r} yet: run on the CPU backend, "
                "or without vllm_mega's settings in --additional-config"
            )
        self.supports_mm = False
        self.punica_wrapper = MegaPunicaWrapperCPU(
            max_num_batched_tokens,
            self.max_num_seqs,
            self.device,
            self.lora_slots,
            self.lora_config.lora_dtype,
        )
        self.punica_wrapper_mapping = {DEFAULT_LANGUAGE_WRAPPER_KEY: self.punica_wrapper}
        self._routed: tuple[object, ...] | None = None

    def _create_lora_modules(self) -> None:
        without_slots = {*self.model.embedding_modules, "experts"}
        wanted = without_slots.intersection(self.lora_config.target_modules or ())
        if wanted:
            raise ConfigError(f"lora_target_modules: only linear layers can have slots, not {sorted(wanted)}")
        self.supported_lora_modules = [m for m in self.supported_lora_modules if m not in without_slots]
        super()._create_lora_modules()
        for name, module in self.modules.items():
            if not isinstance(module, BaseLinearLayerWithLoRA):
                raise ConfigError(f"vllm_mega cannot serve mixtures on {name} ({type(module).__name__})")
            module.lora_b_stacked = tuple(_transposed_once(b) for b in module.lora_b_stacked)

    def check_matched(self, lora: LoRAModel, path: str) -> None:
        """Refuse an adapter with weights that no slot would take: it would silently do less.

        Raises:
            AdapterError: naming the modules.
        """
        lost = sorted(name for name in lora.loras if not self._has_slot(name))
        if lost:
            raise AdapterError(
                path,
                expected=f"weights for modules with slots ({len(self.modules)} layers)",
                found=f"weights for {lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else ""),
                change="Start the engine with these in --lora-target-modules, or train without them.",
            )

    def _has_slot(self, module_name: str) -> bool:
        if module_name in self.modules:
            return True
        prefix, _, leaf = module_name.rpartition(".")
        return any(
            leaf in parts and f"{prefix}.{packed}" in self.modules
            for packed, parts in self.packed_modules_mapping.items()
        )

    def route(self, mapping: LoRAMapping, routes: Mapping[int, Route]) -> None:
        """Build the step's routing table, once for all layers; nothing to do if nothing changed."""
        tokens = mapping.index_mapping
        state = (tokens, dict(routes))
        if state != self._routed:
            self._routed = None
            self.punica_wrapper.set_routing(*routing_table(tokens, routes))
            self._routed = state


def _transposed_once(b: torch.Tensor) -> torch.Tensor:
    """A zeroed [S, 1, O, R] whose memory is laid out [S, R, O], as `kernels.cpu.add_mixture` wants it."""
    slots, _, features, rank = b.shape
    return b.new_zeros(slots, rank, features).transpose(1, 2).unsqueeze(1)
