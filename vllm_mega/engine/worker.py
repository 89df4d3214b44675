"""The worker's manager: brings the adapters of a step from disk to host memory to slots."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.engine.adapters import check_width, mixture_of
from vllm_mega.engine.checks import largest_number
from vllm_mega.engine.holding import readable
from vllm_mega.engine.ids import FIRST_ID, ComponentId, MixtureId, plain
from vllm_mega.engine.manager import MegaLoRAModelManager
from vllm_mega.engine.pinned import pinned
from vllm_mega.engine.prefetch import Loader, channel
from vllm_mega.engine.residency import Residency
from vllm_mega.engine.routing import Route
from vllm_mega.engine.settings import settings_of
from vllm_mega.engine.slots.packed import PackedAdapter, pack
from vllm_mega.errors import ConfigError
from vllm_mega.mixture import Component
from vllm_mega.models import linear_shapes, resolve_model


class UnpinnedLoRA(LoRAModel):  # type: ignore[misc]  # vLLM is untyped to mypy
    """What vLLM reads of an adapter, not pinned: what is packed of it is, in one piece."""

    @classmethod
    def from_lora_tensors(cls, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's; it pins each tensor where `device` is the word "cpu"."""
        return super().from_lora_tensors(*args, **kwargs | {"device": "cpu:0"})


class MegaWorkerLoRAManager(LRUCacheWorkerLoRAManager):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Loads components of mixtures, each once whatever the mixtures, and plain adapters beside them.

    Plain adapters keep the ids that vLLM gave them; components get ids of their own, from 2**30 up,
    by content hash. Both live in vLLM's two LRU caches: host memory (`max_cpu_loras`), slots (`max_loras`).
    """

    _manager_cls = MegaLoRAModelManager
    _adapter_manager: MegaLoRAModelManager

    def __init__(self, vllm_config: Any, device: Any, embedding_modules: Any) -> None:
        super().__init__(vllm_config, device, embedding_modules, UnpinnedLoRA)
        self._shapes = linear_shapes(resolve_model(vllm_config.model_config.model))
        self._component_ids: dict[str, ComponentId] = {}
        self._next_id = itertools.count(FIRST_ID)
        self._in_step: frozenset[ComponentId] = frozenset()
        self._loader = Loader(self._read, ahead=max(8, self.lora_config.max_loras))
        self._counts = Residency(slots=self.lora_config.max_loras)

    def create_lora_manager(self, model: torch.nn.Module, vllm_config: Any) -> Any:
        """See the base class; from here on, announced adapters are loaded ahead."""
        model = super().create_lora_manager(model, vllm_config)
        self._loader.listen(channel(vllm_config), self._is_missing)
        settings = settings_of(vllm_config)
        if settings is not None and settings.pinned:
            self.pin(pinned(settings))
        return model

    def pin(self, components: Iterable[Component]) -> None:
        """Load adapters and keep them in host memory.

        Raises:
            AdapterError: one must not be used.
            ConfigError: so many that the slots' adapters would have no room beside them.
        """
        manager = self._adapter_manager
        cache = manager._registered_adapters
        for component in components:
            if len(cache.pinned_items) + manager.lora_slots >= manager.capacity:
                raise ConfigError(
                    f"{len(cache.pinned_items)} memories are pinned already, and host memory has room for "
                    f"{manager.capacity} with {manager.lora_slots} slots: pin fewer, or raise max_cpu_loras"
                )
            adapter_id = self._component_id(component)
            self._load(adapter_id, component)
            cache.pin(adapter_id)

    def _is_missing(self, component: Component) -> bool:
        adapter_id = self._component_ids.get(component.adapter)
        return adapter_id not in self._adapter_manager._registered_adapters.cache

    def residency(self) -> Residency:
        """Where adapters were found so far."""
        manager = self._adapter_manager
        return msgspec.structs.replace(
            self._counts, host_adapters=len(manager), slots_used=len(manager._active_adapters)
        )

    # --- a step ---------------------------------------------------------------------------------

    def set_active_adapters(self, requests: set[LoRARequest], mapping: LoRAMapping | None) -> None:
        """Bring the step's adapters into slots and route its tokens to them."""
        routes = self._activate(requests)
        if mapping is not None:
            self._adapter_manager.route(mapping, routes)

    def _activate(self, requests: Iterable[LoRARequest]) -> dict[MixtureId, Route]:
        """Every request's route, its adapters being in slots."""
        wanted = {MixtureId(request.lora_int_id): self._weighted_ids(request) for request in requests}
        ids = list(dict.fromkeys(i for pairs in wanted.values() for i, _, _ in pairs))
        slots = self._adapter_manager.lora_slots
        assert len(ids) <= slots, f"admission let {len(ids)} adapters into {slots} slots"
        sources = {i: source for pairs in wanted.values() for i, _, source in pairs}
        before, self._in_step = self._in_step, frozenset(ids)
        active = self._adapter_manager._active_adapters
        self._counts.slot_hits += sum(i in active for i in self._in_step - before)
        # Residents first: a touched adapter is young, so loading the others evicts none of the step's.
        for i in sorted(ids, key=lambda i: i not in active):
            self._load(i, sources[i])
            started = time.perf_counter()
            if self._adapter_manager.activate_adapter(i):
                self._counts.slot_misses += 1
                self._counts.slot_seconds += time.perf_counter() - started
        slot_of = {i: slot for slot, i in enumerate(self._adapter_manager.lora_index_to_id) if i is not None}
        return {n: tuple((slot_of[i], w) for i, w, _ in pairs) for n, pairs in wanted.items()}

    def _weighted_ids(self, request: LoRARequest) -> list[tuple[ComponentId, float, LoRARequest | Component]]:
        mixture = mixture_of(request)
        if mixture is None:
            return [(plain(request.lora_int_id), 1.0, request)]
        return [(self._component_id(c), c.weight, c) for c in mixture.components]

    def _component_id(self, component: Component) -> ComponentId:
        if component.adapter not in self._component_ids:
            self._component_ids[component.adapter] = ComponentId(next(self._next_id))
        return self._component_ids[component.adapter]

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
        manager = self._adapter_manager
        empty = pack([None] * manager.slots.slices, torch.float32, manager.kernels.layout)
        manager.add_packed(plain(lora_request.lora_int_id), empty)
        return True

    def _load(self, adapter_id: ComponentId, source: LoRARequest | Component) -> bool:
        """Make sure that the adapter is in host memory, and young; whether it was not."""
        manager, counts = self._adapter_manager, self._counts
        if manager.get_adapter(adapter_id) is not None:
            counts.host_hits += adapter_id not in manager._active_adapters
            return False
        started, announced = time.perf_counter(), False
        if isinstance(source, Component):
            adapter, announced = self._loader.take(source)
        else:
            adapter = self._read(source)
        counts.stall_seconds += time.perf_counter() - started
        counts.host_misses += 1
        counts.prefetched += announced
        while len(manager) >= manager.capacity:
            manager.remove_adapter(self._oldest_outside_step())
            counts.host_evictions += 1
        manager.add_packed(adapter_id, adapter)
        return True

    def _oldest_outside_step(self) -> ComponentId:
        # The step's adapters may be running: evicting one now would only mean reading it again.
        cache = self._adapter_manager._registered_adapters
        old: list[ComponentId] = [i for i in cache.order if i not in cache.pinned_items]
        return next((i for i in old if i not in self._in_step), old[0])

    def _read(self, source: LoRARequest | Component) -> PackedAdapter:
        """From disk to packed. Any thread may call it: it changes nothing here but the counters of loads."""
        started = time.perf_counter()
        if isinstance(source, Component):
            with readable(source.path) as folder:
                check_adapter(
                    folder,
                    self._shapes,
                    max_rank=self.lora_config.max_lora_rank,
                    expected_digest=source.adapter,
                    largest_number=largest_number(self.lora_config.lora_dtype),
                )
                adapter = self._packed(LoRARequest(source.adapter, FIRST_ID, str(folder)))
        else:
            adapter = self._packed(source)
        self._counts.loads += 1
        self._counts.load_bytes += adapter.nbytes
        self._counts.load_seconds += time.perf_counter() - started
        return adapter

    def _packed(self, source: LoRARequest) -> PackedAdapter:
        return self._adapter_manager.pack(self._load_adapter(source), source.lora_path)

    # --- what is forgotten ----------------------------------------------------------------------

    def held(self) -> list[str]:
        """Digests of the adapters of mixtures that are in host memory, or read ahead."""
        there = self._adapter_manager._registered_adapters.cache
        return sorted(self._loader.coming().union(a for a, i in self._component_ids.items() if i in there))

    def drop(self, adapters: Iterable[str]) -> tuple[int, int]:
        """Let go of adapters by their digests, their bytes overwritten; no request may be using them.

        Returns:
            How many copies were in host memory, and how many slots stood for one.
        """
        some = list(adapters)
        ahead = sum(map(self._loader.drop, some))
        ids = [self._component_ids.pop(adapter) for adapter in some if adapter in self._component_ids]
        copies, slots = self._adapter_manager.erase_adapters(ids)
        return copies + ahead, slots

    # --- what vLLM asks about plain adapters ----------------------------------------------------

    def list_adapters(self) -> set[int]:
        """Ids of the plain adapters in host memory."""
        return {i for i in super().list_adapters() if i < FIRST_ID}


class WorkerExtension:
    """What vLLM adds to its worker class for us: methods that `collective_rpc` can call."""

    model_runner: Any

    def mega_residency(self) -> dict[str, float]:
        """`Residency` of this worker, as a mapping."""
        counts: dict[str, float] = msgspec.structs.asdict(self.model_runner.lora_manager.residency())
        return counts

    def mega_held(self) -> list[str]:
        """Digests of the adapters of mixtures that this worker has."""
        held: list[str] = self.model_runner.lora_manager.held()
        return held

    def mega_drop(self, adapters: list[str]) -> tuple[int, int]:
        """See `MegaWorkerLoRAManager.drop`."""
        dropped: tuple[int, int] = self.model_runner.lora_manager.drop(adapters)
        return dropped
