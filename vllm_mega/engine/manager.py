"""The model manager: vLLM's LoRA layers, with slots that hold packed adapters and routes instead of ids."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.model_executor.layers.linear import LinearBase

from vllm_mega.engine.ids import ComponentId, MixtureId
from vllm_mega.engine.layers import full_names
from vllm_mega.engine.routing import Route, routing_table
from vllm_mega.engine.slots.base import Sizes, Slots
from vllm_mega.engine.slots.device import Kernels, kernels_for
from vllm_mega.engine.slots.packed import PackedAdapter, Pair, pack
from vllm_mega.errors import AdapterError, ConfigError


class MegaLoRAModelManager(LRUCacheLoRAModelManager):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Gives slots to linear layers, keeps packed adapters in them, and routes tokens to them.

    Embedding, logits and expert layers get no slots: adapters that want them are refused when loaded.
    """

    lora_config: Any
    supported_lora_modules: list[str]
    slots: Slots
    kernels: Kernels

    def _init_punica_wrapper(self, max_num_batched_tokens: int, vllm_config: Any) -> None:
        self.kernels = kernels_for(self.device, self.lora_config.lora_dtype)
        if self.lora_config.fully_sharded_loras:
            raise ConfigError("fully_sharded_loras is not supported with mixtures: leave it off")
        self.supports_mm = False
        self._routed: tuple[object, ...] | None = None

    def _get_punica_wrapper(self, module_name: str) -> PunicaWrapperBase:
        return PunicaWrapperBase  # a placeholder: `_create_lora_modules` gives every layer its own

    def _create_lora_modules(self) -> None:
        without_slots = {*self.model.embedding_modules, "experts"}
        wanted = without_slots.intersection(self.lora_config.target_modules or ())
        if wanted:
            raise ConfigError(f"lora_target_modules: only linear layers can have slots, not {sorted(wanted)}")
        self.supported_lora_modules = [m for m in self.supported_lora_modules if m not in without_slots]
        for name, module in self.model.named_modules():
            if isinstance(module, LinearBase) and getattr(module, "weight", self) is None:
                raise ConfigError(
                    f"{name} has given its weights to a quantized kernel, and vLLM 0.32 cannot put LoRA on "
                    "such a layer: serve a model whose linear layers are not quantized to int8"
                )
        self._wanted = {self._runtime_name(name) for name in full_names(self.lora_config.target_modules)}
        with self._smallest_stacks():
            super()._create_lora_modules()
        self._check_layers()
        shapes = [_local_shape(module) for module in self.modules.values()]
        for module in self.modules.values():
            module.lora_a_stacked = module.lora_b_stacked = ()  # packed adapters take their place
        sizes = Sizes(
            self.lora_slots, self.max_num_batched_tokens, self.max_num_seqs, self.lora_config.max_lora_rank
        )
        self.slots = self.kernels.slots(shapes, sizes)
        for module, mixture in zip(self.modules.values(), self.slots.layers, strict=True):
            module.set_mapping(mixture)

    @contextmanager
    def _smallest_stacks(self) -> Iterator[None]:
        """While vLLM makes its layers: with weights for one adapter of rank 1, which nobody will use."""
        ours = self.lora_config
        self.lora_config = copy.copy(ours)
        self.lora_config.max_loras = self.lora_config.max_lora_rank = 1
        try:
            yield
        finally:
            self.lora_config = ours

    def _check_layers(self) -> None:
        for name, module in self.modules.items():
            if not isinstance(module, BaseLinearLayerWithLoRA):
                raise ConfigError(f"vllm_mega cannot serve mixtures on {name} ({type(module).__name__})")
        lost = sorted(name for name in self._wanted if not self._has_slot(name))
        if lost:
            raise ConfigError(f"lora_target_modules: the model has no linear layer called {lost[0]}")

    def _runtime_name(self, module: str) -> str:
        """What vLLM calls a module of the checkpoint, when it reads an adapter."""
        mapper = getattr(self.model, "hf_to_vllm_mapper", None)
        name = f"base_model.model.{module}.lora_A.weight"
        return str(parse_fine_tuned_lora_name(name, mapper and mapper.get_rename_mapper())[0])

    def _match_target_modules(self, module_name: str) -> bool:
        """Also by the whole name, of the module or of one that it is packed of."""
        prefix, _, leaf = module_name.rpartition(".")
        parts = (module_name, *(f"{prefix}.{part}" for part in self.packed_modules_mapping.get(leaf, ())))
        return super()._match_target_modules(module_name) or not self._wanted.isdisjoint(parts)

    # --- adapters -------------------------------------------------------------------------------

    def pack(self, lora: LoRAModel, path: str) -> PackedAdapter:
        """Pack an adapter that vLLM has read. Changes nothing in here, so any thread may call it.

        Raises:
            AdapterError: some of its weights have no slot here; without them it would silently do less.
        """
        self._check_matched(lora, path)
        slices = [
            part
            for name, module in self.modules.items()
            for part in _slices(*_weights(lora, name, self.packed_modules.get(name, ())), module)
        ]
        kernels, dtype = self.kernels, self.lora_config.lora_dtype
        adapter = pack(slices, dtype, kernels.layout, pin_memory=kernels.pin_memory)
        if not bool(torch.isfinite(adapter.weights).all()):
            raise AdapterError(
                path,
                expected=f"weights that are finite in {dtype}, scaling included",
                found="NaN or infinity",
                change="Train it again, restore its file, or serve it with --dtype bfloat16 or float32.",
            )
        return adapter

    def _check_matched(self, lora: LoRAModel, path: str) -> None:
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

    def add_packed(self, adapter_id: ComponentId, adapter: PackedAdapter) -> None:
        """Keep the adapter in host memory."""
        self._registered_adapters[adapter_id] = adapter

    def activate_adapter(self, lora_id: ComponentId) -> bool:
        """Give the adapter, which is in host memory, a slot; whether it had none."""
        if lora_id in self._active_adapters:
            self._active_adapters.touch(lora_id)
            return False
        if len(self._active_adapters) >= self.lora_slots:
            self._active_adapters.remove_oldest()
        slot = self.lora_index_to_id.index(None)
        self.slots.put(slot, self._registered_adapters[lora_id])
        self._routed = None  # what the slot's number means has changed
        self.lora_index_to_id[slot] = lora_id
        self._active_adapters[lora_id] = None
        return True

    def _deactivate_adapter(self, lora_id: ComponentId) -> None:
        if lora_id in self.lora_index_to_id:
            slot = self.lora_index_to_id.index(lora_id)
            self.lora_index_to_id[slot] = None
            self.slots.clear(slot)

    def erase_adapters(self, adapter_ids: Iterable[ComponentId]) -> tuple[int, int]:
        """Remove adapters, pinned ones, too, and zero them; how many there were, and how many had slots."""
        there = [i for i in adapter_ids if i in self._registered_adapters.cache]
        packed = [self._registered_adapters.cache[i] for i in there]
        with_slots = sum(i in self._active_adapters for i in there)
        for adapter_id in there:
            self.remove_adapter(adapter_id)
        if with_slots:
            self._routed = None  # what the slots' numbers mean has changed
        self.slots.settle()
        for adapter in packed:
            adapter.erase()
        return len(there), with_slots

    def remove_all_adapters(self) -> None:
        """Forget every adapter that is not pinned; vLLM does so after warming up."""
        for adapter_id in self.list_adapters().keys() - self._registered_adapters.pinned_items:
            self.remove_adapter(adapter_id)

    # --- a step ---------------------------------------------------------------------------------

    def route(self, mapping: LoRAMapping, routes: Mapping[MixtureId, Route]) -> None:
        """Build the step's routing table, once for all layers; nothing to do if nothing changed."""
        idle = not routes and not any(mapping.index_mapping)
        tokens = () if idle else mapping.index_mapping
        state = (tokens, dict(routes))
        if state != self._routed:
            self._routed = None
            self.slots.route(*routing_table(tokens, routes), idle=idle)
            self._routed = state


def _local_shape(module: BaseLinearLayerWithLoRA) -> tuple[int, tuple[int, ...]]:
    """I and the O_p of the layer, as this rank of a tensor-parallel group has them."""
    return module.lora_a_stacked[0].shape[-1], tuple(b.shape[2] for b in module.lora_b_stacked)


def _weights(lora: LoRAModel, name: str, parts: Sequence[str]) -> tuple[Any, Any]:
    """A and B, scaling included, that the adapter has for a layer: of each part, if it has any of them.

    As vLLM's `_create_merged_loras_inplace`, which would pin each of them.
    """
    if not any(part in lora.loras for part in parts):
        return _scaled(lora.loras.get(name))
    a, b = zip(*(_scaled(lora.loras.get(part)) for part in parts), strict=True)
    return list(a), list(b)


def _scaled(weights: Any) -> tuple[Any, Any]:
    if weights is None:
        return None, None
    return weights.lora_a, weights.lora_b if weights.scaling == 1 else weights.lora_b * weights.scaling


def _slices(a: Any, b: Any, module: BaseLinearLayerWithLoRA) -> Iterator[Pair | None]:
    """What the adapter has for every output slice of a layer, cut for this tensor-parallel rank."""
    if a is None:
        yield from (None,) * module.n_slices
        return
    if not isinstance(a, list) and module.n_slices > 1:  # one matrix on disk, several slices in the layer
        a, b = [a], [b]
    if isinstance(a, list) and len(a) != module.n_slices:
        a, b = module.expand_packed_lora(a, b)
    if module.tp_size > 1:
        a, b = module.slice_lora_a(a), module.slice_lora_b(b)
    if not isinstance(a, list):
        a, b = [a], [b]
    for a_i, b_i in zip(a, b, strict=True):
        yield None if a_i is None or b_i is None else (a_i, b_i)
