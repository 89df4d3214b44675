"""What an engine has of forgotten memories, it lets go of when it is told; on the real engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from vllm import SamplingParams

from tests.engine.adapters import Adapters
from tests.engine.conftest import Engine
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.engine.parts import having
from vllm_mega.engine.slots.packed import PackedAdapter
from vllm_mega.engine.start import starting_at
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine
TOKENS = 12
PROMPT = "The keeper of the harbour lamp"
LONG = "Nobody but the keeper of the lamp may climb the tower. " * 12
"""More than two blocks."""
TEXT = "default/vault/3"


@pytest.fixture(autouse=True)
def _nothing_is_held(engine: Engine) -> None:
    engine.forget_cache()
    let_go(engine, held(engine))
    assert held(engine) == []


def held(engine: Engine) -> list[str]:
    found: list[str] = engine.llm.collective_rpc("mega_engine_held")
    return found


def let_go(engine: Engine, parts: Sequence[str], *, end: bool = False) -> dict[str, int]:
    """What is told; of adapters, whether there were any: one that was read ahead may be there twice."""
    told: dict[str, int] = engine.llm.collective_rpc("mega_engine_let_go", args=(list(parts), end))
    return told | {"adapters": min(told["adapters"], 1)}


def counts(adapters: int = 0, slots: int = 0, blocks: int = 0, **more: int) -> dict[str, int]:
    return {"adapters": adapters, "slots": slots, "blocks": blocks, "ended": 0, "running": 0, **more}


def packed(engine: Engine, digest: str) -> PackedAdapter:
    manager = engine.manager
    adapter: PackedAdapter = manager._adapter_manager._registered_adapters.cache[
        manager._component_ids[digest]
    ]
    return adapter


def cached(engine: Engine, prompt: str, mixture: Mixture | None = None, **extra: Any) -> int:
    """Ask, and say how many tokens of the prompt came from the prefix cache."""
    params = SamplingParams(temperature=0, max_tokens=1, extra_args=extra or None)
    lora = to_lora_request(mixture) if mixture else None
    (output,) = engine.llm.generate([prompt], params, lora_request=lora, use_tqdm=False)
    return int(output.num_cached_tokens)


class Running:
    """Requests that are stepped by hand."""

    def __init__(self, engine: Engine, *mixtures: Mixture | None) -> None:
        self.core = engine.llm.llm_engine
        self.last: dict[str, Any] = {}
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        for n, mixture in enumerate(mixtures):
            lora = to_lora_request(mixture) if mixture else None
            self.core.add_request(str(n), PROMPT, params, lora_request=lora)

    def step(self) -> None:
        self.last |= {output.request_id: output.outputs[0] for output in self.core.step()}

    def finish(self) -> list[tuple[tuple[int, ...], str]]:
        while self.core.has_unfinished_requests():
            self.step()
        return [(tuple(said.token_ids), said.finish_reason) for _, said in sorted(self.last.items())]


def test_neither_copy_nor_slot_nor_byte_of_a_forgotten_adapter_stays(
    engine: Engine, adapters: Adapters
) -> None:
    forgotten, other = adapters.mixture((1, 1.0)), adapters.mixture((2, 1.0))
    engine.ask([(PROMPT, forgotten), (PROMPT, other)])
    before = engine.ask([(PROMPT, other)], TOKENS)
    copy, slots = packed(engine, adapters.digests[1]), engine.manager._adapter_manager.slots
    slot = engine.manager._adapter_manager.lora_index_to_id.index(
        engine.manager._component_ids[adapters.digests[1]]
    )
    assert copy.weights.count_nonzero() > 0
    assert slots.table[slot].count_nonzero() > 0
    assert let_go(engine, [adapters.digests[1]]) == counts(adapters=1, slots=1)
    assert held(engine) == [adapters.digests[2]]
    assert copy.weights.count_nonzero() == 0
    assert slots.table[slot].count_nonzero() == 0
    assert let_go(engine, [adapters.digests[1]]) == counts()
    assert engine.ask([(PROMPT, other)], TOKENS) == before


def test_an_adapter_that_comes_back_is_read_again_and_acts(engine: Engine, adapters: Adapters) -> None:
    """Numbers of adapters are never given twice, whichever went before."""
    wanted = [(PROMPT, adapters.mixture((n, 1.0))) for n in range(3)]
    before = engine.ask(wanted, TOKENS)
    let_go(engine, [adapters.digests[0]])
    engine.ask([(PROMPT, adapters.mixture((3, 1.0)))])
    assert engine.ask(wanted, TOKENS) == before
    ids = engine.manager._component_ids
    assert len(set(ids.values())) == len(ids)


def test_pinned_adapters_are_let_go_of(engine: Engine, adapters: Adapters) -> None:
    engine.manager.pin(adapters.mixture((0, 1.0)).components)
    assert let_go(engine, [adapters.digests[0]]) == counts(adapters=1)
    assert engine.manager.residency().host_adapters == 0
    assert not engine.manager._adapter_manager._registered_adapters.pinned_items


def test_adapters_that_were_read_ahead_are_let_go_of(engine: Engine, adapters: Adapters) -> None:
    loader = engine.manager._loader
    (component,) = adapters.mixture((5, 1.0)).components
    loader.prefetch(component)
    (future,) = loader._coming.values()
    assert held(engine) == [component.adapter]
    read = future.result(10)
    assert read.weights.count_nonzero() > 0
    assert let_go(engine, [component.adapter]) == counts(adapters=1)
    assert (held(engine), int(read.weights.count_nonzero())) == ([], 0)


def test_requests_that_use_it_finish_as_if_nothing_had_been_forgotten(
    engine: Engine, adapters: Adapters
) -> None:
    mixture = adapters.mixture((1, 0.5), (2, 0.5))
    (wanted,) = Running(engine, mixture).finish()
    running = Running(engine, mixture)
    running.step()
    assert let_go(engine, [adapters.digests[1]]) == counts(running=1)
    assert running.finish() == [wanted]
    assert let_go(engine, [adapters.digests[1]]) == counts(adapters=1, slots=1)
    assert engine.scheduler._ids._ids == {}


def test_requests_that_use_it_end_where_that_is_wanted_and_no_others(
    engine: Engine, adapters: Adapters
) -> None:
    other = adapters.mixture((2, 1.0))
    (wanted,) = Running(engine, other).finish()
    running = Running(engine, adapters.mixture((1, 0.5), (2, 0.5)), other)
    running.step()
    assert let_go(engine, [adapters.digests[1]], end=True) == counts(ended=1, running=1)
    assert let_go(engine, [adapters.digests[1]], end=True) == counts(running=1), "it is told once"
    (said, reason), fine = running.finish()
    assert (len(said) < TOKENS, reason, fine) == (True, "error", wanted)
    assert let_go(engine, [adapters.digests[1]]) == counts(adapters=1, slots=1)


def test_requests_that_wait_end_too(engine: Engine, adapters: Adapters) -> None:
    running = Running(engine, adapters.mixture((1, 1.0)))
    assert let_go(engine, [adapters.digests[1]], end=True)["ended"] == 1
    ((said, reason),) = running.finish()
    assert (len(said) < 2, reason) == (True, "error"), "after one step"


def test_no_prompt_finds_a_forgotten_text_in_the_prefix_cache(engine: Engine) -> None:
    other = "Somebody else has climbed the tower of the lamp. " * 12
    said = having([TEXT])
    cached(engine, LONG, **said)
    cached(engine, other, **having(["default/other/1"]))
    again, others = cached(engine, LONG, **said), cached(engine, other)
    assert min(again, others) > 0
    assert TEXT in held(engine)
    assert let_go(engine, [TEXT])["blocks"] == again // 32
    assert cached(engine, LONG) == 0
    assert cached(engine, other) == others
    assert held(engine) == ["default/other/1"]


def test_what_a_forgotten_adapter_has_computed_is_found_no_more_and_what_stands_before_is(
    engine: Engine, adapters: Adapters
) -> None:
    mixture = adapters.mixture((1, 1.0))
    cached(engine, LONG, mixture, **starting_at(40))
    whole = cached(engine, LONG, mixture, **starting_at(40))
    assert whole > 32
    assert let_go(engine, [adapters.digests[1]]) == counts(1, 1, whole // 32 - 1)
    assert cached(engine, LONG, mixture, **starting_at(40)) == 32


def test_blocks_of_a_request_that_runs_are_found_no_more_once_it_is_done(engine: Engine) -> None:
    core = engine.llm.llm_engine
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, extra_args=having([TEXT]))
    core.add_request("reads", LONG, params)
    core.step()
    assert let_go(engine, [TEXT]) == counts(running=1)
    while core.has_unfinished_requests():
        core.step()
    assert let_go(engine, [TEXT])["blocks"] >= 2
    assert cached(engine, LONG) == 0


def test_a_bank_that_never_had_it_answers_the_same(engine: Engine, adapters: Adapters) -> None:
    """Tokens and their probabilities, whatever was in slots and cache before."""
    asked = [(LONG, None), (PROMPT, adapters.mixture((3, 1.0))), (LONG, adapters.mixture((2, 1.0)))]
    never = engine.ask(asked, TOKENS)
    engine.forget_cache()
    let_go(engine, held(engine))
    engine.ask([(LONG, adapters.mixture((1, 1.0))), (PROMPT, adapters.mixture((1, 0.5), (3, 0.5)))], TOKENS)
    let_go(engine, [adapters.digests[1]])
    engine.forget_cache()  # others' blocks came from longer chunks: numbers would differ in the last place
    assert engine.ask(asked, TOKENS) == never


def test_calls_that_are_not_ours_reach_the_workers(engine: Engine) -> None:
    (residency,) = engine.llm.collective_rpc("mega_residency")
    assert residency["slots"] == 4


def test_letting_go_is_quick(engine: Engine, adapters: Adapters) -> None:
    """The engine's loop waits for it: without anything to do, for a moment."""
    started = time.perf_counter()
    for _ in range(20):
        let_go(engine, [adapters.digests[1], TEXT])
    assert time.perf_counter() - started < 1
