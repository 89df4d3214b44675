"""The hook: mixtures on their way to the worker, loaded once, refused for good reasons only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from vllm.exceptions import VLLMServerError

from tests.serving.fakes import FakeGate
from vllm_mega.config import MegaSettings
from vllm_mega.errors import BankError, MemoryNotFoundError
from vllm_mega.mixture import Mixture
from vllm_mega.serving.deciding import Ask
from vllm_mega.serving.hook import MemoryHook
from vllm_mega.serving.schemas import make_plan

SETTINGS = MegaSettings(bank="bank")


class Worker:
    """Records what it is asked to load; refuses paths that contain `bad`."""

    def __init__(self) -> None:
        self.loaded: list[set[str]] = []
        self.bad = "nothing is bad"
        self.error: Exception = RuntimeError("NaN in it")
        self.free = asyncio.Event()
        self.free.set()

    async def add_lora(self, request: Any) -> bool:
        self.loaded.append({c.path.split("/")[2] for c in Mixture.from_path(request.lora_path).components})
        await self.free.wait()
        if self.bad in request.lora_path:
            raise self.error
        return True


def ask(text: str | None, **mega: Any) -> Ask:
    return Ask(make_plan(mega, SETTINGS), text)


def make(remembered: int = 16) -> tuple[MemoryHook, Worker, Any]:
    gate: Any = FakeGate()
    worker = Worker()
    return MemoryHook(gate, SETTINGS, 4, worker.add_lora, remembered), worker, gate


async def test_the_mixture_travels_as_a_lora_request() -> None:
    hook, worker, _ = make()
    decision, request = await hook.route(ask("bees and owls"))
    assert request is not None
    assert (request.lora_name, request.lora_path) == (decision.mixture.name, decision.mixture.path)
    assert worker.loaded == [{"bees", "owls"}]


async def test_the_empty_mixture_is_the_base_model() -> None:
    hook, worker, _ = make()
    decision, request = await hook.route(ask("nothing we know"))
    assert (len(decision.mixture), request) == (0, None)
    assert worker.loaded == []


async def test_what_is_loaded_is_not_loaded_again() -> None:
    hook, worker, _ = make()
    for text in ("bees and owls", "owls", "bees", "bees and owls"):
        await hook.route(ask(text))
    assert worker.loaded == [{"bees", "owls"}]
    await hook.route(ask("goats and owls"))
    assert worker.loaded[1:] == [{"goats", "owls"}]


async def test_many_at_once_load_once() -> None:
    hook, worker, gate = make()
    routes = await asyncio.gather(*(hook.route(ask("bees")) for _ in range(20)))
    assert len({request.lora_name for _, request in routes if request}) == 1
    assert worker.loaded == [{"bees"}]
    assert len(gate.calls) < 20


async def test_what_the_worker_may_have_dropped_is_asked_for_again() -> None:
    hook, worker, _ = make(remembered=1)
    for text in ("bees", "owls", "bees"):
        await hook.route(ask(text))
    assert worker.loaded == [{"bees"}, {"owls"}, {"bees"}]


async def test_a_broken_adapter_is_refused_and_forgiven_when_repaired() -> None:
    hook, worker, _ = make()
    worker.bad = "owls"
    with pytest.raises(BankError, match=r"\(bees, owls\) cannot be used: NaN in it"):
        await hook.route(ask("bees and owls"))
    assert (await hook.route(ask("bees")))[1] is not None
    worker.bad = "nothing is bad"
    assert (await hook.route(ask("owls")))[1] is not None


async def test_an_adapter_replaced_meanwhile_is_decided_again() -> None:
    hook, worker, gate = make()
    worker.bad = "/bees/1"
    worker.free.clear()
    route = asyncio.create_task(hook.route(ask("bees")))
    while not worker.loaded:
        await asyncio.sleep(0.001)
    gate.version = 2
    worker.free.set()
    decision, request = await route
    assert request is not None
    assert decision.mixture.components[0].path == "/bank/bees/2"


async def test_a_client_that_leaves_does_not_stop_the_load_for_others() -> None:
    hook, worker, _ = make()
    worker.free.clear()
    first = asyncio.create_task(hook.route(ask("bees")))
    while not worker.loaded:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(hook.route(ask("bees")))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    worker.free.set()
    assert (await second)[1] is not None
    assert worker.loaded == [{"bees"}]


async def test_a_dead_engine_is_not_a_broken_memory() -> None:
    hook, worker, _ = make()
    worker.bad, worker.error = "bees", VLLMServerError("dead")
    with pytest.raises(VLLMServerError):
        await hook.route(ask("bees"))


async def test_an_unknown_memory() -> None:
    hook, worker, _ = make()
    with pytest.raises(MemoryNotFoundError, match="elk"):
        await hook.route(ask(None, memories=[{"id": "elk"}]))
    assert worker.loaded == []
