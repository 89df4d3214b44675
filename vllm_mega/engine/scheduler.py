"""The scheduler: vLLM's own, plus admission by the union of adapters."""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from vllm_mega.contract.checking import require
from vllm_mega.engine.adapters import adapters_of, check_width, mixture_of
from vllm_mega.engine.admission import Admission
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.engine.events import ToldApart
from vllm_mega.engine.holding import HeldPath, Holder
from vllm_mega.engine.ids import MixtureIds
from vllm_mega.engine.letting_go import Released
from vllm_mega.engine.parts import acting, first_block, used_by
from vllm_mega.engine.prefetch import Announcer, channel
from vllm_mega.engine.prefix import PrefixCache
from vllm_mega.engine.traces import Traces
from vllm_mega.engine.upstream.of_scheduler import SCHEDULER
from vllm_mega.engine.upstream.releases import end_with_error
from vllm_mega.errors import ConfigError
from vllm_mega.mixture import Mixture

logger = logging.getLogger(__name__)
TRACES = 4
"""Hashes that are kept for each block of the prefix cache, so that looking for stale ones is rare."""


class MegaScheduler(AsyncScheduler):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Runs a request only when all its adapters fit the slots beside those of the running ones."""

    lora_config: Any
    kv_event_publisher: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        require(SCHEDULER)
        super().__init__(*args, **kwargs)
        if self.lora_config is None:
            raise ConfigError("MegaScheduler needs LoRA: start the engine with --enable-lora")
        self._admission = Admission(self.lora_config.max_loras)
        self._ids = MixtureIds()
        self._joined: int | None = None
        self._checks = AdapterChecks.of(self.vllm_config)
        self._holder = Holder()
        self._needs: dict[str, Mixture] = {}
        self._announcer = Announcer(channel(self.vllm_config))
        pool = self.kv_cache_manager.block_pool
        self._prefix = PrefixCache(pool, len(self.kv_cache_config.kv_cache_groups))
        self._traces = Traces(TRACES * pool.num_gpu_blocks, copied=self.connector is not None)
        self.kv_event_publisher = ToldApart(self.kv_event_publisher)
        # Upstream counts one id a request against max_loras. Our admission counts adapters, so its
        # check must never bite: this copy, which only the scheduler sees, allows any number.
        self.lora_config = copy(self.lora_config)
        self.lora_config.max_loras = self.max_num_running_reqs + 1

    def expect(self, request_id: str, lora: LoRARequest | None) -> None:
        """Hold what a request needs until it is done, and begin to check and to load it.

        Called from the thread that takes requests in.
        """
        mixture = mixture_of(lora) if lora is not None else None
        if mixture:
            self._needs[request_id] = mixture = self._holder.hold(mixture)
            for component in mixture.components:
                self._checks.begin(component)
            self._announcer.announce(mixture.components)

    def add_request(self, request: Request) -> None:
        """Give the request's mixture its engine-local id; the client's is a placeholder."""
        lora = request.lora_request
        mixture = mixture_of(lora) if lora is not None else None
        if mixture is not None:
            check_width(lora, self._admission.slots)
            number = self._ids.get(mixture.name, self._live_mixtures)
            needs = self._needs.setdefault(request.request_id, mixture)
            request.lora_request = LoRARequest(mixture.name, number, needs.path)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Schedule a step; see the base class."""
        self._joined = None
        output = super().schedule(*args, **kwargs)
        self._note_joined()
        return output

    def _live_mixtures(self) -> list[str]:
        return [r.lora_request.lora_name for r in self.requests.values() if r.lora_request]

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Upstream's question at the moment of decision: can this waiting request run now?"""
        return super()._handle_blocked_waiting_request(request) and self._has_adapters(request)

    def _has_adapters(self, request: Request) -> bool:
        if self._joined is None:
            self._admission.begin(adapters_of(r.lora_request) for r in self.running)
            self._joined = len(self.running)
        self._note_joined()
        if not self._admission.admits(request.request_id, adapters_of(request.lora_request)):
            return False
        needs = self._held(request)
        checks = [self._checks.begin(component) for component in needs.components] if needs else []
        if self.running and not all(check.done() for check in checks):
            return False  # those that run need not wait for it
        wrong = next((check.result() for check in checks if check.result()), "")
        if wrong:
            logger.error("request %s ends: %s", request.request_id, wrong)
            end_with_error(self, request.request_id)
        return not wrong

    def _held(self, request: Request) -> Mixture | None:
        """What the request needs, held for certain: a step that cannot read its adapter ends the engine."""
        needs = self._needs.get(request.request_id)
        if needs and not all(isinstance(component.path, HeldPath) for component in needs.components):
            needs = self._needs[request.request_id] = self._holder.hold(needs, at_any_rate=True)
            lora = request.lora_request
            request.lora_request = LoRARequest(lora.lora_name, lora.lora_int_id, needs.path)
        return needs

    def _note_joined(self) -> None:
        if self._joined is not None:
            for request in self.running[self._joined :]:
                self._admission.joined(request.request_id, adapters_of(request.lora_request))
            self._joined = len(self.running)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._admission.forget(request.request_id)
        self._needs.pop(request.request_id, None)
        if parts := used_by(request):
            hashes = request.block_hashes[first_block(request, self._prefix.size) :]
            self._traces.note(parts, hashes, self._prefix.has)
        return super()._free_request(request, *args, **kwargs)

    # --- what is forgotten ----------------------------------------------------------------------

    def held(self) -> set[str]:
        """Parts of memories that requests use, or have left in the prefix cache."""
        return set(self._traces.parts).union(*self._used().values())

    def let_go(self, parts: frozenset[str], *, end: bool) -> Released:
        """Let go of parts of memories, but for those that requests use; see `letting_go.let_go`."""
        using = {request_id: used for request_id, used in self._used().items() if used & parts}
        ending = self.grammar_compile_error_reqs
        ended = [name for name in using if end and name in self.requests and name not in ending]
        for request_id in ended:
            logger.info("request %s ends: a memory that it uses was forgotten", request_id)
            end_with_error(self, request_id)
        traced = parts & self._traces.parts
        blocks = self._prefix.evict(self._traces.take(parts))
        # A connector has copies, and no way to take out some of them.
        if traced and not self.reset_connector_cache():
            logger.warning("the KV connector keeps its copies of blocks, some of a forgotten memory")
        self._ids.keep(self._live_mixtures())
        used = frozenset().union(*using.values())
        return Released(blocks, len(ended), len(using), used)

    def _used(self) -> dict[str, frozenset[str]]:
        """Parts that requests use, by request; those on their way among them."""
        coming = {request_id: acting(mixture) for request_id, mixture in list(self._needs.items())}
        return coming | {request_id: used_by(request) for request_id, request in self.requests.items()}

    def shutdown(self) -> None:
        """See the base class."""
        self._announcer.close()
        super().shutdown()
