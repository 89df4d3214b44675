"""What a server counts of its own requests: shown by vLLM's `/metrics`, added up over its API servers.

These are metrics of prometheus_client's own registry, beside vLLM's. Labels are few and known beforehand.
"""

from __future__ import annotations

import time
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram
from vllm.lora.request import LoRARequest

from vllm_mega.gate.gate import Decision
from vllm_mega.gate.uses import Outcome
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.http.tracing import UNTRACED, Untraced
from vllm_mega.requests.deciding import Ask
from vllm_mega.requests.schemas import Plan

Route = Literal["memories", "null", "given", "off", "refused"]

GATE_SECONDS = Histogram(
    "mega_gate_seconds",
    "Seconds from a request to its mixture: waiting for the gate, embedding, comparing, checking adapters",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
GATE_WAITING = Gauge("mega_gate_waiting", "Requests that wait for their mixture", multiprocess_mode="livesum")
ROUTES = Counter(
    "mega_routes",
    "Requests with memory, by what was decided: memories, null (none is near enough), given (by the client), "
    "off, refused",
    ["route"],
)
INSIDE = Gauge("mega_requests_inside", "POST requests that are answered or wait", multiprocess_mode="livesum")
REFUSED = Counter("mega_requests_refused", "POST requests that got 503 because too many were there")

USES = Counter(
    "mega_uses",
    "Uses of memories, where they count: flushed (to the bank), dropped (too many waited for it)",
    ["outcome"],
)


def count_uses(outcome: Outcome, number: int) -> None:
    """See `gate.uses`."""
    USES.labels(outcome).inc(number)


class MeasuredHook(MemoryHook):
    """A hook that counts what it decides, and how long that takes; traced, it tells the same of each."""

    spans: Untraced = UNTRACED

    async def route(self, ask: Ask) -> tuple[Decision, LoRARequest | None]:
        """See `MemoryHook.route`."""
        return await self.spans.run("mega.gate", self._measured(ask))

    async def _measured(self, ask: Ask) -> tuple[Decision, LoRARequest | None]:
        route: Route = "refused"
        begun = time.perf_counter()
        try:
            with GATE_WAITING.track_inprogress():
                decision, lora_request = await super().route(ask)
            route = decided(ask.plan, decision)
            self.spans.note(memories=len(decision.hits))
        finally:
            ROUTES.labels(route).inc()
            self.spans.note(mode=ask.plan.mode, route=route)
        if ask.plan.asks_gate:
            GATE_SECONDS.observe(time.perf_counter() - begun)
        return decision, lora_request


def decided(plan: Plan, decision: Decision) -> Route:
    """What became of a request."""
    if plan.mode == "off":
        return "off"
    if not plan.asks_gate:
        return "given"
    return "memories" if decision.hits else "null"
