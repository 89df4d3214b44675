"""The pre-scheduling hook: from a request to its mixture, and its adapters on their way to the worker."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from vllm.exceptions import VLLMServerError
from vllm.lora.request import LoRARequest

from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import BankError, MegaError
from vllm_mega.gate.gate import Decision, Gate
from vllm_mega.mixture import Component, Mixture
from vllm_mega.serving.batching import MicroBatcher
from vllm_mega.serving.deciding import Ask, decide


class MemoryHook:
    """Decides for many requests at a time, off the event loop, and makes the worker load adapters early.

    Args:
        gate: of the bank.
        settings: what holds for requests that do not say otherwise.
        slots: how many adapters a mixture may have.
        add_lora: loads a LoRARequest's adapters into the worker's host memory, or raises.
        remembered: of how many adapters, the latest used, the worker's host memory surely still has room.
    """

    def __init__(
        self,
        gate: Gate,
        settings: MegaSettings,
        slots: int,
        add_lora: Callable[[LoRARequest], Awaitable[object]],
        remembered: int,
    ) -> None:
        self.settings = settings
        self._gate = gate
        self._slots = slots
        self._add_lora = add_lora
        self._remembered = remembered
        self._loads: OrderedDict[Component, asyncio.Task[object]] = OrderedDict()
        self._batcher: MicroBatcher[Ask, Decision] = MicroBatcher(self._decide)

    def _decide(self, asks: Sequence[Ask]) -> list[Decision | MegaError]:
        return decide(self._gate, asks, self._slots)

    async def route(self, ask: Ask) -> tuple[Decision, LoRARequest | None]:
        """The mixture for one request, and the LoRARequest that carries it; None is the base model.

        Raises:
            RequestError: the client's own mixture cannot be served.
            BankError: the bank cannot be read, or the worker refused an adapter; the message says why.
        """
        decision = await self._batcher.submit(ask)
        try:
            return decision, await self._preload(decision)
        except BankError:
            # A writer may have replaced an adapter since the decision; then there is a newer one.
            again = await self._batcher.submit(ask)
            if again.mixture == decision.mixture:
                raise
            return again, await self._preload(again)

    async def _preload(self, decision: Decision) -> LoRARequest | None:
        request = to_lora_request(decision.mixture)
        if request is None:
            return None
        loads = self._loads_of(request, decision.mixture)
        try:
            for load in loads:  # others may wait for the same load: a client that leaves must not stop it
                await asyncio.shield(load)
        except VLLMServerError:  # the engine is dead: no memory is to blame
            raise
        except Exception as error:
            self._loads = OrderedDict((c, load) for c, load in self._loads.items() if load not in loads)
            ids = ", ".join(hit.id for hit in decision.hits)
            raise BankError(f"the memories ({ids}) cannot be used: {error}") from error
        return request

    def _loads_of(self, request: LoRARequest, mixture: Mixture) -> set[asyncio.Task[object]]:
        """The loads, done or under way, that bring the adapters of `mixture`; a new one if any is missing."""
        parts = [part._replace(steps=0) for part in mixture.components]
        known = [self._loads[part] for part in parts if part in self._loads]
        if len(known) < len(parts):
            known = [asyncio.create_task(self._load(request))] * len(parts)
        for part, load in zip(parts, known, strict=True):
            self._loads[part] = load
            self._loads.move_to_end(part)
        while len(self._loads) > self._remembered:
            self._loads.popitem(last=False)
        return set(known)

    async def _load(self, request: LoRARequest) -> object:
        return await self._add_lora(request)
