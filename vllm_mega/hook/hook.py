"""The pre-scheduling hook: from a request to its mixture, of adapters that are known to be good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from vllm.lora.request import LoRARequest

from vllm_mega.bank.catalog.gone import gone
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.holding import Holder
from vllm_mega.errors import BankChangedError, BankError
from vllm_mega.gate.gate import Decision, Gate
from vllm_mega.mixture import Component
from vllm_mega.requests.batching import MicroBatcher
from vllm_mega.requests.deciding import Ask, decide
from vllm_mega.requests.reading import used

ATTEMPTS = 8
"""Decisions for one request, each of the bank as it is then: only a torrent of updates needs more."""


class Check(Protocol):
    """`AdapterChecks.begin`."""

    def __call__(self, component: Component, *, afresh: bool = False) -> Future[str]:
        """Begin to check an adapter unless it has been (afresh: in any case); gives what is wrong with it."""
        ...


class MemoryHook:
    """Decides for many requests at a time, off the event loop, and has their adapters checked there.

    What was decided is held until the request is done, whatever is forgotten or updated meanwhile.

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
        self.slots = slots
        self._check = check
        self._holder = Holder()
        self._batcher: MicroBatcher[Ask, tuple[Decision, list[Future[str]]]] = MicroBatcher(self._decide)
        # Long texts one by one, in a thread of their own: no short one waits for more than one of them.
        self._long: MicroBatcher[Ask, tuple[Decision, list[Future[str]]]] = MicroBatcher(self._decide, 1)

    def _decide(self, asks: Sequence[Ask]) -> list[tuple[Decision, list[Future[str]]] | Exception]:
        return [
            answer if isinstance(answer, Exception) else self._begin(answer)
            for answer in decide(self._gate, asks, self.slots)
        ]

    def _begin(self, answer: Decision) -> tuple[Decision, list[Future[str]]]:
        """The decision, its adapters held, and their checks, begun."""
        decision = replace(answer, mixture=self._holder.hold(answer.mixture))
        return decision, [self._check(component) for component in decision.mixture.components]

    async def route(self, ask: Ask) -> tuple[Decision, LoRARequest | None]:
        """The mixture for one request, and the LoRARequest that carries it; None is the base model.

        Raises:
            RequestError: the client's own mixture cannot be served.
            BankChangedError: the memories were replaced again and again while they were looked at.
            BankError: the bank cannot be read, or an adapter must not be used; the message says why.
        """
        before = None
        for _ in range(ATTEMPTS):
            decision, wrong = await self._decided(ask)
            if not wrong:
                if ask.plan.asks_gate:  # by naming a memory itself, a client makes it no stronger
                    self._gate.used(decision)
                return decision, to_lora_request(decision.mixture)
            if (decision.event, decision.mixture) == before:
                raise BankError(_unusable(decision, wrong))
            # A writer may have removed an adapter since the decision, and even have put it there again.
            before = decision.event, decision.mixture
        ids = _ids(decision)
        raise BankChangedError(f"the memories ({ids}) change faster than they can be read: ask again")

    async def wrong(self, decisions: Sequence[Decision]) -> str:
        """What is wrong with the adapters of these decisions now, whatever was known before; empty: nothing.

        For requests that the engine has ended: it looks once more when it needs an adapter, and tells nobody
        but its log what it found.
        """
        for decision in decisions:
            if reason := await self._first_reason(await asyncio.to_thread(self._afresh, decision)):
                return _unusable(decision, reason)
        return ""

    async def why_ended(self, decisions: Sequence[Decision]) -> BankError | None:
        """Why the engine has ended requests with these decisions; None: for the sake of no memory."""
        if wrong := await self.wrong(decisions):
            return BankError(wrong)
        if self.settings.forget_running == "end":
            return await asyncio.to_thread(self._forgotten, decisions)
        return None

    def _forgotten(self, decisions: Sequence[Decision]) -> BankError | None:
        for decision in decisions:
            if gone(self._gate.library.catalog, used(decision)):
                return BankChangedError(
                    f"one of the memories ({_ids(decision)}) was forgotten while it was used: ask again"
                )
        return None

    def _afresh(self, decision: Decision) -> list[Future[str]]:
        return [self._check(component, afresh=True) for component in decision.mixture.components]

    async def _decided(self, ask: Ask) -> tuple[Decision, str]:
        """The decision, and what is wrong with its adapters."""
        decision, checks = await (self._long if ask.is_long else self._batcher).submit(ask)
        return decision, await self._first_reason(checks)

    @staticmethod
    async def _first_reason(checks: Sequence[Future[str]]) -> str:
        # Others may wait for the same check: a client that leaves must not stop it.
        reasons = [await asyncio.shield(asyncio.wrap_future(check)) for check in checks]
        return next(filter(None, reasons), "")


def _unusable(decision: Decision, wrong: str) -> str:
    return f"the memories ({_ids(decision)}) cannot be used: {wrong}"


def _ids(decision: Decision) -> str:
    return ", ".join(hit.id for hit in decision.hits)
