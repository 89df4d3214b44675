"""`GET /mega/metrics`: where the workers found adapters, in Prometheus' text format.

vLLM's own `/metrics` has no place for it: what it shows travels with every step, in fixed fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

router = APIRouter()

_COUNTERS = {
    "slot_hits": "Adapters that a step newly needed and that had a slot",
    "slot_misses": "Adapters that a step newly needed and that had no slot",
    "slot_seconds": "Seconds of giving slots to adapters",
    "host_hits": "Adapters without a slot that were in host memory",
    "host_misses": "Adapters without a slot that were not in host memory",
    "host_evictions": "Adapters dropped from host memory to make room",
    "prefetched": "Host misses that had been announced: read, or being read, when the step needed them",
    "stall_seconds": "Seconds that steps waited for adapters from disk",
    "loads": "Adapters read from disk, ahead or not",
    "load_seconds": "Seconds of reading and packing adapters",
    "load_bytes": "Bytes of packed adapters that were read",
}
_GAUGES = {
    "host_adapters": "Adapters in host memory",
    "slots_used": "Slots that hold an adapter",
    "slots": "Slots",
}


class _Workers(Collector):
    def __init__(self, workers: Sequence[Mapping[str, float]]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        for names, family in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
            for name, text in names.items():
                metric = family(f"mega_{name}", text, labels=["worker"])
                for number, counts in enumerate(self._workers):
                    metric.add_metric([str(number)], counts[name])
                yield metric


def exposition(workers: Sequence[Mapping[str, float]]) -> bytes:
    """Prometheus' text for the `Residency` of every worker."""
    registry = CollectorRegistry()
    registry.register(_Workers(workers))
    return generate_latest(registry)


async def metrics(request: Request) -> Response:
    """The counters of all workers of this engine."""
    engine: Any = request.app.state.engine_client
    return Response(exposition(await engine.collective_rpc("mega_residency")), media_type=CONTENT_TYPE_LATEST)


router.add_api_route("/mega/metrics", metrics)
