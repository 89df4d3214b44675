"""`GET /mega/metrics`: where the workers of all engines found adapters, and what is in the bank.

In Prometheus' text format. vLLM's own `/metrics` has no place for it: what it shows of engines travels with
every step, in fixed fields. What a server counts of its own requests is there (see `measures`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from vllm.entrypoints.serve import create_error_response

from vllm_mega.bank.catalog.sizes import Sizes
from vllm_mega.engine.configuration import WORKER_EXTENSION
from vllm_mega.errors import BankError
from vllm_mega.http.watch import Watch

router = APIRouter()
logger = logging.getLogger(__name__)

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


_BANK = {
    "mega_bank_up": "1 if the bank can be read, else 0; then nothing else is told of it",
    "mega_bank_event": "Number of the last event of the bank that the gate knows",
    "mega_bank_adapters": "Adapters that a version of a memory names",
    "mega_bank_adapter_bytes": "Bytes of these on disk",
}
_BY_STATE = {
    "mega_bank_memories": "Memories, by the state of their newest version",
    "mega_bank_jobs": "Trainings that wait, that a trainer has, or that have failed",
}


class Told(NamedTuple):
    """What is told of a bank that can be read."""

    event: int
    sizes: Sizes


class _Bank(Collector):
    def __init__(self, told: Told | None) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("mega_bank_up", _BANK["mega_bank_up"], value=int(self._told is not None))
        if self._told is None:
            return
        event, sizes = self._told
        values = {"event": event, "adapters": sizes.adapters, "adapter_bytes": sizes.adapter_bytes}
        for name, value in values.items():
            yield GaugeMetricFamily(f"mega_bank_{name}", _BANK[f"mega_bank_{name}"], value=value)
        for name, counts in (("memories", sizes.memories), ("jobs", sizes.jobs)):
            text = _BY_STATE[f"mega_bank_{name}"]
            metric = GaugeMetricFamily(f"mega_bank_{name}", text, labels=["state"])
            for state, count in counts.items():
                metric.add_metric([state], count)
            yield metric


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


def exposition(engines: Sequence[Sequence[Mapping[str, float]]], told: Told | None) -> bytes:
    """Prometheus' text.

    Args:
        engines: the `Residency` of every worker of every engine.
        told: of the bank; None: it cannot be read.
    """
    registry = CollectorRegistry()
    registry.register(_Bank(told))
    registry.register(_Workers(engines))
    return generate_latest(registry)


async def metrics(request: Request) -> Response:
    """What this server's bank holds and all workers of its engines have counted; 501 if these do not count.

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
    told = await _told(request.app.state.mega_watch)
    return Response(exposition(engines, told), media_type=CONTENT_TYPE_LATEST)


async def _told(watch: Watch) -> Told | None:
    try:
        sizes = await watch.sizes()
    except BankError as error:
        logger.error("the bank cannot be counted: %s", error)
        return None
    return Told(watch.event, sizes)


router.add_api_route("/mega/metrics", metrics)
