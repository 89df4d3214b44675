"""What /mega/metrics says, and when it says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from vllm_mega.bank.catalog.sizes import Sizes
from vllm_mega.engine.configuration import WORKER_EXTENSION
from vllm_mega.engine.residency import Residency
from vllm_mega.errors import BankError
from vllm_mega.http.metrics import Told, exposition, router


def values(text: str) -> dict[tuple[str, str, str], float]:
    """(name, engine, worker) to value."""
    return {
        (sample.name, sample.labels["engine"], sample.labels["worker"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "worker" in sample.labels and not sample.name.endswith("_created")
    }


def test_every_counter_of_every_worker_is_told() -> None:
    one, two = Residency(slot_hits=3, stall_seconds=0.25, slots=8), Residency(loads=7)
    text = exposition([[msgspec.structs.asdict(one), msgspec.structs.asdict(two)]], None).decode()
    families = {family.name for family in text_string_to_metric_families(text)} - {"mega_bank_up"}
    assert families == {f"mega_{name}" for name in Residency.__struct_fields__}
    found = values(text)
    assert found["mega_slot_hits_total", "0", "0"] == 3
    assert found["mega_stall_seconds_total", "0", "0"] == 0.25
    assert found["mega_slots", "0", "0"] == 8
    assert found["mega_loads_total", "0", "1"] == 7


SIZES = Sizes({"pending": 2, "ready": 5}, {"waiting": 1, "leased": 1}, adapters=4, adapter_bytes=4096)


def test_the_bank_is_told() -> None:
    text = exposition([], Told(17, SIZES)).decode()
    found = {
        (s.name, s.labels.get("state")): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
    }
    assert found == {
        ("mega_bank_up", None): 1,
        ("mega_bank_event", None): 17,
        ("mega_bank_adapters", None): 4,
        ("mega_bank_adapter_bytes", None): 4096,
        ("mega_bank_memories", "pending"): 2,
        ("mega_bank_memories", "ready"): 5,
        ("mega_bank_jobs", "waiting"): 1,
        ("mega_bank_jobs", "leased"): 1,
    }


class FakeWatch:
    """Of a bank that can be read, or not."""

    event = 17

    def __init__(self, error: BankError | None = None) -> None:
        self.error = error

    async def sizes(self) -> Sizes:
        if self.error is not None:
            raise self.error
        return SIZES


class FakeCore:
    """Two engines of one worker each."""

    async def call_utility_all_async(self, method: str, *args: Any) -> list[list[dict[str, float]]]:
        assert (method, *args) == ("collective_rpc", "mega_residency", None, (), None)
        return [[msgspec.structs.asdict(Residency(loads=loads))] for loads in (7, 9)]


async def ask(extension: str, watch: FakeWatch | None = None) -> httpx.Response:
    app = FastAPI()
    app.include_router(router)
    parallel = SimpleNamespace(worker_extension_cls=extension)
    config = SimpleNamespace(parallel_config=parallel)
    app.state.engine_client = SimpleNamespace(vllm_config=config, engine_core=FakeCore())
    app.state.mega_watch = watch or FakeWatch()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.get("/mega/metrics")


async def test_all_engines_are_told() -> None:
    found = values((await ask(WORKER_EXTENSION)).text)
    assert [found["mega_loads_total", engine, "0"] for engine in "01"] == [7, 9]


async def test_a_bank_that_cannot_be_read_hides_no_worker() -> None:
    text = (await ask(WORKER_EXTENSION, FakeWatch(BankError("gone")))).text
    assert values(text)["mega_loads_total", "1", "0"] == 9
    assert "\nmega_bank_up 0.0\n" in text
    assert "mega_bank_memories" not in text


@pytest.mark.parametrize("extension", ["other.Extension", ""])
async def test_workers_that_do_not_count_are_named(extension: str) -> None:
    answer = await ask(extension)
    assert answer.status_code == 501
    assert f"the workers have the extension {extension or None}" in answer.json()["error"]["message"]


def test_vllm_has_what_asks_all_engines() -> None:
    from vllm.v1.engine.core_client import AsyncMPClient, DPAsyncMPClient, DPLBAsyncMPClient

    for client in (AsyncMPClient, DPAsyncMPClient, DPLBAsyncMPClient):
        assert client.call_utility_all_async is AsyncMPClient.call_utility_all_async
