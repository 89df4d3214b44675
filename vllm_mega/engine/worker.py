"""The worker's manager: brings the adapters of a step from disk to host memory to slots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.engine.adapters import FIRST_MIXTURE_ID, check_width, mixture_of
from vllm_mega.engine.manager import MegaLoRAModelManager
from vllm_mega.engine.packed import PackedAdapter, pack
from vllm_mega.engine.routing import Route
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Component
from vllm_mega.models import linear_shapes, resolve_model


class MegaWorkerLoRAManager(LRUCacheWorkerLoRAManager):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Loads components of mixtures, each once whatever the mixtures, and plain adapters beside them.

    Plain adapters keep the ids that vLLM gave them; components get ids of their own, from 2**30 up,
    by content hash. Both live in vLLM's two LRU caches: host memory (`max_cpu_loras`), slots (`max_loras`).
    """

    _manager_cls = MegaLoRAModelManager
    _adapter_manager: MegaLoRAModelManager

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        self._shapes = linear_shapes(resolve_model(vllm_config.model_config.model))
        self._component_ids: dict[str, int] = {}
        self._in_step: frozenset[int] = frozenset()

    # --- a step ---------------------------------------------------------------------------------

    def set_active_adapters(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """Bring the step's adapters into slots and route its tokens to them."""
        routes = self._activate(requests)
        if mapping is not None:
            self._adapter_manager.route(mapping, routes)

    def _activate(self, requests: Iterable[LoRARequest]) -> dict[int, Route]:
        """Every request's route, its adapters being in slots."""
        wanted = {request.lora_int_id: self._weighted_ids(request) for request in requests}
        ids = list(dict.fromkeys(i for pairs in wanted.values() for i, _, _ in pairs))
        slots = self._adapter_manager.lora_slots
        assert len(ids) <= slots, f"admission let {len(ids)} adapters into {slots} slots"
        sources = {i: source for pairs in wanted.values() for i, _, source in pairs}
        self._in_step = frozenset(ids)
        # Residents first: a touched adapter is young, so loading the others evicts none of the step's.
        for i in sorted(ids, key=lambda i: i not in self._adapter_manager._active_adapters):
            self._load(i, sources[i])
            self._adapter_manager.activate_adapter(i)
        slot_of = {i: slot for slot, i in enumerate(self._adapter_manager.lora_index_to_id) if i is not None}
        return {n: tuple((slot_of[i], w) for i, w, _ in pairs) for n, pairs in wanted.items()}

    def _weighted_ids(self, request: LoRARequest) -> list[tuple[int, float, LoRARequest | Component]]:
        mixture = mixture_of(request)
        if mixture is None:
            return [(request.lora_int_id, 1.0, request)]
        return [(self._component_id(c), c.weight, c) for c in mixture.components]

    def _component_id(self, component: Component) -> int:
        return self._component_ids.setdefault(component.adapter, FIRST_MIXTURE_ID + len(self._component_ids))

    # --- disk to host memory --------------------------------------------------------------------

    def add_adapter(self, lora_request: LoRARequest) -> bool:
        """Load what the request needs into host memory, ahead of its first step.

        Raises:
            AdapterError: an adapter that must not be used.
            MixtureError: more adapters than slots.
        """
        check_width(lora_request, self._adapter_manager.lora_slots)
        new = False
        for i, _, source in self._weighted_ids(lora_request):
            if getattr(source, "load_inplace", False):
                self._adapter_manager.remove_adapter(i)
            new |= self._load(i, source)
        return new

    def add_dummy_lora(self, lora_request: LoRARequest, rank: int) -> bool:
        """What vLLM warms up with: an adapter that touches nothing."""
        empty = pack([None] * self._adapter_manager.slots.table.shape[1], torch.float32, torch.flatten)
        self._adapter_manager.add_packed(lora_request.lora_int_id, empty)
        return True

    def _load(self, adapter_id: int, source: LoRARequest | Component) -> bool:
        """Make sure that the adapter is in host memory, and young; whether it was not."""
        manager = self._adapter_manager
        if manager.get_adapter(adapter_id) is not None:
            return False
        adapter = self._read(source)
        while len(manager) >= manager.capacity:
            manager.remove_adapter(self._oldest_outside_step())
        manager.add_packed(adapter_id, adapter)
        return True

    def _oldest_outside_step(self) -> int:
        # The step's adapters may be running: evicting one now would only mean reading it again.
        cached: list[int] = list(self._adapter_manager._registered_adapters.cache)
        return next((i for i in cached if i not in self._in_step), cached[0])

    def _read(self, source: LoRARequest | Component) -> PackedAdapter:
        """From disk to packed; changes nothing in here."""
        if isinstance(source, Component):
            check_adapter(
                Path(source.path),
                self._shapes,
                max_rank=self.lora_config.max_lora_rank,
                expected_digest=source.adapter,
            )
            source = LoRARequest(source.adapter, FIRST_MIXTURE_ID, source.path)
        lora = self._load_adapter(source)
        for name, layer in lora.loras.items():
            for tensor in (layer.lora_a, layer.lora_b):
                if not bool(torch.isfinite(tensor).all()):
                    raise AdapterError(
                        source.lora_path,
                        expected="finite weights",
                        found=f"NaN or infinity in {name}",
                        change="Train the adapter again, or restore its file.",
                    )
        return self._adapter_manager.pack(lora, source.lora_path)

    # --- what vLLM asks about plain adapters ----------------------------------------------------

    def list_adapters(self) -> set[int]:
        """Ids of the plain adapters in host memory."""
        return {i for i in super().list_adapters() if i < FIRST_MIXTURE_ID}
