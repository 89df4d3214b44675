"""`GET /mega/metrics`: where the workers of all engines found adapters, in Prometheus' text format.

vLLM's own `/metrics` has no place for it: what it shows travels with every step, in fixed fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from vllm.entrypoints.serve import create_error_response

from vllm_mega.engine.configuration import WORKER_EXTENSION

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
    def __init__(self, engines: Sequence[Sequence[Mapping[str, float]]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        for names, family in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
            for name, text in names.items():
                metric = family(f"mega_{name}", text, labels=["engine", "worker"])
                for engine, workers in enumerate(self._engines):
                    for worker, counts in enumerate(workers):
                        metric.add_metric([str(engine), str(worker)], counts[name])
                yield metric


def exposition(engines: Sequence[Sequence[Mapping[str, float]]]) -> bytes:
    """Prometheus' text for the `Residency` of every worker of every engine."""
    registry = CollectorRegistry()
    registry.register(_Workers(engines))
    return generate_latest(registry)


async def metrics(request: Request) -> Response:
    """The counters of all workers of all engines that this server asks; 501 if these do not count.

    `EngineClient.collective_rpc` asks all data-parallel engines, too, but tells what the first one says.
    """
    client: Any = request.app.state.engine_client
    extension = client.vllm_config.parallel_config.worker_extension_cls
    if extension != WORKER_EXTENSION:
        message = (
            f"the workers have the extension {extension or None}, and so they do not count: leave it out"
        )
        error = create_error_response(message, "NotImplementedError", HTTPStatus.NOT_IMPLEMENTED)
        return JSONResponse(error.model_dump(), error.error.code)
    ask = client.engine_core.call_utility_all_async
    engines = await ask("collective_rpc", "mega_residency", None, (), None)
    return Response(exposition(engines), media_type=CONTENT_TYPE_LATEST)


router.add_api_route("/mega/metrics", metrics)
