"""The pre-scheduling hook: from a request to its mixture, of adapters that are known to be good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from vllm.lora.request import LoRARequest

from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import BankError
from vllm_mega.gate.gate import Decision, Gate
from vllm_mega.mixture import Component
from vllm_mega.serving.batching import MicroBatcher
from vllm_mega.serving.deciding import Ask, decide


class Check(Protocol):
    """`AdapterChecks.begin`."""

    def __call__(self, component: Component, *, afresh: bool = False) -> Future[str]:
        """Begin to check an adapter unless it has been (afresh: in any case); gives what is wrong with it."""
        ...


class MemoryHook:
    """Decides for many requests at a time, off the event loop, and has their adapters checked there.

    Args:
        gate: of the bank.
        settings: what holds for requests that do not say otherwise.
        slots: how many adapters a mixture may have.
        check: of adapters.
    """

    def __init__(
        self,
        gate: Gate,
        settings: MegaSettings,
        slots: int,
        check: Check,
    ) -> None:
        self.settings = settings
        self._gate = gate
        self._slots = slots
        self._check = check
        self._batcher: MicroBatcher[Ask, tuple[Decision, list[Future[str]]]] = MicroBatcher(self._decide)

    def _decide(self, asks: Sequence[Ask]) -> list[tuple[Decision, list[Future[str]]] | Exception]:
        return [
            answer
            if isinstance(answer, Exception)
            else (answer, [self._check(component) for component in answer.mixture.components])
            for answer in decide(self._gate, asks, self._slots)
        ]

    async def route(self, ask: Ask) -> tuple[Decision, LoRARequest | None]:
        """The mixture for one request, and the LoRARequest that carries it; None is the base model.

        Raises:
            RequestError: the client's own mixture cannot be served.
            BankError: the bank cannot be read, or an adapter must not be used; the message says why.
        """
        decision, wrong = await self._decided(ask)
        if wrong:
            # A writer may have replaced an adapter since the decision; then there is a newer one.
            before = decision.mixture
            decision, wrong = await self._decided(ask)
            if wrong or decision.mixture == before:
                raise BankError(_unusable(decision, wrong))
        return decision, to_lora_request(decision.mixture)

    async def wrong(self, decisions: Sequence[Decision]) -> str:
        """What is wrong with the adapters of these decisions now, whatever was known before; empty: nothing.

        For requests that the engine has ended: it looks once more when it needs an adapter, and tells nobody
        but its log what it found.
        """
        for decision in decisions:
            if found := await self._found(await asyncio.to_thread(self._afresh, decision)):
                return _unusable(decision, found)
        return ""

    def _afresh(self, decision: Decision) -> list[Future[str]]:
        return [self._check(component, afresh=True) for component in decision.mixture.components]

    async def _decided(self, ask: Ask) -> tuple[Decision, str]:
        """The decision, and what is wrong with its adapters."""
        decision, checks = await self._batcher.submit(ask)
        return decision, await self._found(checks)

    @staticmethod
    async def _found(checks: Sequence[Future[str]]) -> str:
        # Others may wait for the same check: a client that leaves must not stop it.
        found = [await asyncio.shield(asyncio.wrap_future(check)) for check in checks]
        return next(filter(None, found), "")


def _unusable(decision: Decision, wrong: str) -> str:
    ids = ", ".join(hit.id for hit in decision.hits)
    return f"the memories ({ids}) cannot be used: {wrong}"
