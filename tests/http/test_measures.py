"""What a server counts of its own requests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.hook.test_hook import SETTINGS, Checks, ask
from tests.http.fakes import FakeGate
from tests.http.running_app import build
from tests.http.test_limit import Slow, client_of, until
from vllm_mega.errors import BankError, MemoryNotFoundError
from vllm_mega.http.limit import RequestLimit
from vllm_mega.http.measures import GATE_WAITING, MeasuredHook, count_uses

ROUTES = ("memories", "null", "given", "off", "refused")


def counted() -> dict[str, float]:
    """What stands in the registry that vLLM shows at /metrics."""
    found = {name: REGISTRY.get_sample_value("mega_routes_total", {"route": name}) or 0.0 for name in ROUTES}
    for name in ("mega_gate_seconds_count", "mega_requests_refused_total", "mega_requests_inside"):
        found[name] = REGISTRY.get_sample_value(name) or 0.0
    return found


@pytest.fixture
def grown() -> Callable[[], dict[str, float]]:
    """By how much each has grown, those left out that have not."""
    before = counted()
    return lambda: {name: value - before[name] for name, value in counted().items() if value != before[name]}


def test_uses_are_counted_by_what_became_of_them() -> None:
    def uses() -> list[float]:
        labels = ({"outcome": "flushed"}, {"outcome": "dropped"})
        return [REGISTRY.get_sample_value("mega_uses_total", one) or 0.0 for one in labels]

    before = uses()
    count_uses("flushed", 3)
    count_uses("dropped", 2)
    assert [now - then for now, then in zip(uses(), before, strict=True)] == [3, 2]


def make() -> tuple[MeasuredHook, Checks, Any]:
    gate: Any = FakeGate()
    checks = Checks()
    return MeasuredHook(gate, SETTINGS, 4, checks.begin), checks, gate


async def test_requests_are_counted_by_what_was_decided(grown: Any) -> None:
    hook, _, _ = make()
    given = ask("goats", memories=[{"id": "bees", "weight": 1.0}])
    for one in (ask("bees"), ask("owls"), ask("nothing"), given, ask("bees", mode="off")):
        await hook.route(one)
    assert grown() == {"memories": 2, "null": 1, "given": 1, "off": 1, "mega_gate_seconds_count": 3}


async def test_what_is_refused_is_counted_and_takes_no_time(grown: Any) -> None:
    hook, _, gate = make()
    gate.error = BankError("gone")
    with pytest.raises(BankError, match="gone"):
        await hook.route(ask("bees"))
    with pytest.raises(MemoryNotFoundError):
        await hook.route(ask("", memories=[{"id": "none", "weight": 1.0}]))
    assert grown() == {"refused": 2}


async def test_who_waits_is_counted_until_it_has_its_mixture() -> None:
    hook, checks, _ = make()
    checks.free = False
    task = asyncio.create_task(hook.route(ask("bees")))
    await until(lambda: checks.waiting)
    assert GATE_WAITING._value.get() == 1
    checks.answer()
    await task
    assert GATE_WAITING._value.get() == 0


async def test_the_decision_is_that_of_the_hook() -> None:
    decision, request = await make()[0].route(ask("bees and owls"))
    assert [hit.id for hit in decision.hits] == ["bees", "owls"]
    assert request is not None


async def test_requests_inside_and_refused(grown: Any) -> None:
    slow = Slow()
    async with client_of(RequestLimit(slow, 2)) as client:
        tasks = [asyncio.create_task(client.post("/x")) for _ in range(5)]
        await until(lambda: sum(task.done() for task in tasks) == 3)
        assert grown() == {"mega_requests_inside": 2, "mega_requests_refused_total": 3}
        slow.go.set()
        await asyncio.gather(*tasks)
    assert grown() == {"mega_requests_refused_total": 3}


FORKED = """
import os
from prometheus_client import generate_latest
from vllm.v1.metrics.prometheus import get_prometheus_registry
from vllm_mega.http import measures

measures.ROUTES.labels("null").inc(2)
measures.INSIDE.inc()
child = os.fork()
if child == 0:
    measures.ROUTES.labels("null").inc(3)
    measures.INSIDE.inc()
    measures.GATE_SECONDS.observe(0.3)
    os._exit(0)
os.waitpid(child, 0)
print(generate_latest(get_prometheus_registry()).decode())
"""


def test_what_several_api_servers_count_is_added_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = set(done.stdout.splitlines())
    assert {'mega_routes_total{route="null"} 5.0', "mega_requests_inside 2.0"} <= told
    assert {'mega_gate_seconds_bucket{le="0.2"} 0.0', 'mega_gate_seconds_bucket{le="0.5"} 1.0'} <= told


async def test_the_metrics_of_vllm_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(build(monkeypatch)) as client:
        text = (await client.get("/metrics")).text
    assert "\n# TYPE mega_gate_seconds histogram\n" in text
    assert "\n# TYPE mega_requests_refused_total counter\n" in text
