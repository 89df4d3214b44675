"""What /mega/metrics says, and when it says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from vllm_mega.engine.configuration import WORKER_EXTENSION
from vllm_mega.engine.residency import Residency
from vllm_mega.http.metrics import exposition, router


def values(text: str) -> dict[tuple[str, str, str], float]:
    """(name, engine, worker) to value."""
    return {
        (sample.name, sample.labels["engine"], sample.labels["worker"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_every_counter_of_every_worker_is_told() -> None:
    one, two = Residency(slot_hits=3, stall_seconds=0.25, slots=8), Residency(loads=7)
    text = exposition([[msgspec.structs.asdict(one), msgspec.structs.asdict(two)]]).decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    assert families == {f"mega_{name}" for name in Residency.__struct_fields__}
    found = values(text)
    assert found["mega_slot_hits_total", "0", "0"] == 3
    assert found["mega_stall_seconds_total", "0", "0"] == 0.25
    assert found["mega_slots", "0", "0"] == 8
    assert found["mega_loads_total", "0", "1"] == 7


class FakeCore:
    """Two engines of one worker each."""

    async def call_utility_all_async(self, method: str, *args: Any) -> list[list[dict[str, float]]]:
        assert (method, *args) == ("collective_rpc", "mega_residency", None, (), None)
        return [[msgspec.structs.asdict(Residency(loads=loads))] for loads in (7, 9)]


async def ask(extension: str) -> httpx.Response:
    app = FastAPI()
    app.include_router(router)
    parallel = SimpleNamespace(worker_extension_cls=extension)
    config = SimpleNamespace(parallel_config=parallel)
    app.state.engine_client = SimpleNamespace(vllm_config=config, engine_core=FakeCore())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.get("/mega/metrics")


async def test_all_engines_are_told() -> None:
    found = values((await ask(WORKER_EXTENSION)).text)
    assert [found["mega_loads_total", engine, "0"] for engine in "01"] == [7, 9]


@pytest.mark.parametrize("extension", ["other.Extension", ""])
async def test_workers_that_do_not_count_are_named(extension: str) -> None:
    answer = await ask(extension)
    assert answer.status_code == 501
    assert f"the workers have the extension {extension or None}" in answer.json()["error"]["message"]


def test_vllm_has_what_asks_all_engines() -> None:
    from vllm.v1.engine.core_client import AsyncMPClient, DPAsyncMPClient, DPLBAsyncMPClient

    for client in (AsyncMPClient, DPAsyncMPClient, DPLBAsyncMPClient):
        assert client.call_utility_all_async is AsyncMPClient.call_utility_all_async
