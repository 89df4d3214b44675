"""Which blocks have something of which parts of memories; vLLM's block manager, no engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import init_none_hash
from vllm.v1.request import Request

from tests.engine.blocks import LORAS, Asked, Scenario, World, request_of
from vllm_mega.engine import letting_go
from vllm_mega.engine.letting_go import Released
from vllm_mega.engine.parts import first_block, having, in_prompt, used_by
from vllm_mega.engine.prefix import PrefixCache
from vllm_mega.engine.private import private_from
from vllm_mega.engine.start import starting_at
from vllm_mega.engine.traces import Traces
from vllm_mega.engine.upstream.replacements import engine_calls

SIZE = 4


def never(_: bytes) -> bool:
    raise AssertionError("there is room")


def test_blocks_are_taken_with_any_part_and_leave_no_trace() -> None:
    traces = Traces(100)
    traces.note(["a", "b"], [b"1", b"2"], never)
    traces.note(["b"], [b"2", b"3"], never)
    traces.note(["c"], [], never)
    assert traces.parts == {"a", "b"}
    assert traces.take(["a", "unknown"]) == {b"1", b"2"}
    assert traces.take(["b"]) == {b"1", b"2", b"3"}
    assert (traces.parts, traces.take(["a", "b"])) == (set(), set())


def test_where_there_are_too_many_those_that_are_in_no_cache_go() -> None:
    traces = Traces(4)
    traces.note(["a"], [b"1", b"2"], never)
    traces.note(["b"], [b"1", b"2"], never)
    traces.note(["b"], [b"3"], lambda block: block != b"2")
    assert (traces.take(["a"]), traces.take(["b"])) == ({b"1"}, {b"1", b"3"})
    traces.note(["a"], [b"1"], never)
    traces.note(["b"], [bytes([n]) for n in range(9)], lambda block: False)
    assert traces.parts == set()


def test_where_blocks_have_copies_elsewhere_what_left_some_is_kept_in_mind() -> None:
    traces = Traces(2, copied=True)
    traces.note(["a"], [b"1", b"2", b"3"], lambda block: False)
    assert (set(traces.parts), traces.take(["a"]), set(traces.parts)) == ({"a"}, set(), set())


def test_how_often_is_looked_for_stale_ones_does_not_grow() -> None:
    traces, looks = Traces(4), 0

    def cached(_: bytes) -> bool:
        nonlocal looks
        looks += 1
        return True

    for n in range(1000):
        traces.note(["a"], [n.to_bytes(2, "big")], cached)
    assert looks < 3000
    assert len(traces.take(["a"])) == 1000


def request(lora: int, extra: dict[str, Any] | None) -> Any:
    params = SamplingParams(extra_args=extra)
    return SimpleNamespace(lora_request=LORAS[lora], sampling_params=params, num_prompt_tokens=40)


def test_a_request_uses_what_acts_and_what_its_prompt_has() -> None:
    assert used_by(request(0, None)) == set()
    assert used_by(request(1, None)) == set(), "a plain adapter is no memory's"
    assert used_by(request(3, having(["default/vault/1"]))) == {"a" * 64, "b" * 64, "default/vault/1"}
    assert in_prompt(None) == set()


@pytest.mark.parametrize(
    ("extra", "first"),
    [
        (None, 0),
        (starting_at(9), 2),
        (starting_at(99), 10),
        ({**starting_at(9), **having(["x/y/1"])}, 0),
        ({**starting_at(19), **private_from(9, "salt"), **having(["x/y/1"])}, 2),
    ],
)
def test_a_mixture_acts_from_its_start_and_a_text_stands_where_it_is_said_or_anywhere(
    extra: Any, first: int
) -> None:
    assert first_block(request(2, extra), SIZE) == first


def ran(manager: KVCacheManager, lora: int, number: int) -> Request:
    """A request that has been computed, and is done."""
    asked = request_of(Asked(lora, 0, 16, 1, 0, [17]), number, SIZE)
    manager.allocate_slots(asked, asked.num_tokens)
    asked.num_computed_tokens = asked.num_tokens
    manager.free(asked)
    return asked


@pytest.fixture
def manager() -> KVCacheManager:
    init_none_hash(sha256)
    return World(Scenario([], [0], 160, SIZE)).manager


def test_blocks_are_found_no_more_also_those_that_were_computed_twice(manager: KVCacheManager) -> None:
    cache = PrefixCache(manager.block_pool, 1)
    first, second, other = (ran(manager, lora, n) for n, lora in enumerate((2, 2, 0)))
    assert first.block_hashes == second.block_hashes
    assert cache.size == SIZE
    assert all(map(cache.has, [*first.block_hashes, *other.block_hashes]))
    assert cache.evict([*first.block_hashes, b"unknown"]) == 8
    assert not any(map(cache.has, first.block_hashes))
    assert all(map(cache.has, other.block_hashes))
    again = request_of(Asked(2, 0, 16, 1, 0, [17]), 9, SIZE)
    assert manager.get_computed_blocks(again)[1] == 0


class Core:
    """Stands for vLLM's `EngineCore`, with two workers."""

    def __init__(self, settings: Any) -> None:
        self.vllm_config = SimpleNamespace(additional_config=settings)
        self.scheduler = SimpleNamespace(
            held=lambda: {"a", "x/y/1"},
            let_go=lambda parts, end: Released(3, int(end), 2, frozenset(parts) & {"b"}),
        )
        self.model_executor = self
        self.asked: list[Any] = []

    def collective_rpc(self, method: str, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:
        self.asked.append((method, args))
        return {"mega_held": [["c"], ["a", "c"]], "mega_drop": [(1, 1), (1, 0)]}.get(method, method)


def test_what_requests_use_stays_and_the_rest_goes_from_all_workers() -> None:
    core = Core({"mega": {"bank": "b"}})
    call: Any = engine_calls(Core.collective_rpc)
    assert call(core, "mega_engine_held") == ["a", "c", "x/y/1"]
    told = call(core, "mega_engine_let_go", None, (["b", "a"], True), None)
    assert told == {"adapters": 2, "slots": 1, "blocks": 3, "ended": 1, "running": 2}
    assert core.asked[-1] == ("mega_drop", (["a"],))
    assert letting_go.let_go(core, ["b"], end=False)["adapters"] == 0
    assert len(core.asked) == 2, "no worker is asked for nothing"
    assert call(core, "other", None, (1,)) == "other"


def test_an_engine_without_our_settings_is_stock() -> None:
    call: Any = engine_calls(Core.collective_rpc)
    assert call(Core({}), "mega_engine_held") == "mega_engine_held"
