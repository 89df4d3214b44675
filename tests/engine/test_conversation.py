"""A conversation whose memory changes at every turn: the last turn is computed again, not the history."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest

from loadtests.conversation import Turn, table, talk
from loadtests.machine import this_machine
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.offline_chat import Chat, answered
from vllm_mega.requests.schemas import Start

pytestmark = pytest.mark.engine

SYSTEM = "You answer in one short sentence. You never ask back, and you like goats. " * 3
QUESTIONS = [f"What grows in garden number {n} of the old town, and who waters it?" for n in range(10)]
SAID = ["Mint and rye grow there."] * 10
BLOCK = 32
"""Of the engine of these tests."""


def turns(engine: Any, adapters: Any, way: str) -> list[Turn]:
    used = [adapters.mixture((n % 6, 1.0), ((n + 1) % 6, 0.25 + n / 64)) for n in range(10)]
    return talk(engine.llm, SYSTEM, QUESTIONS, used, way, list(SAID), new_tokens=2)


def test_tokens_computed_in_ten_turns(engine: Any, adapters: Any) -> None:
    ways = {way: turns(engine, adapters, way) for way in ("base", "question", "everywhere")}
    prompts = [turn.prompt_tokens for turn in ways["base"]]
    for found in ways.values():
        assert [turn.prompt_tokens for turn in found] == prompts
    last = max(after - before for before, after in pairwise(prompts))
    assert [turn.computed_tokens for turn in ways["everywhere"]] == prompts, "nothing is anybody else's"
    for before, now in pairwise(ways["base"]):
        assert now.computed_tokens <= now.prompt_tokens - before.prompt_tokens + BLOCK
    for before, now in pairwise(ways["question"]):
        assert before.start is not None
        shared = now.prompt_tokens - now.computed_tokens
        assert shared == before.start // BLOCK * BLOCK, "all whole blocks before the last question"
        assert now.computed_tokens < 2 * last + BLOCK
    assert prompts[-1] > 3 * (2 * last + BLOCK), "or the history would be no history"


def test_what_is_shared_does_not_change_the_answer(engine: Any, adapters: Any) -> None:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=0)
    messages = [{"role": "system", "content": SYSTEM}]
    for question, said in zip(QUESTIONS[:3], SAID, strict=False):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    messages.append({"role": "user", "content": QUESTIONS[4]})
    mixture = to_lora_request(adapters.mixture((0, 1.0), (1, 1.0)))

    def ask(lora: Any, start: Start | None = None) -> tuple[float, int]:
        ((output, _),) = answered(engine.llm, [Chat(messages, greedy, lora, start, None)], use_tqdm=False)
        return output.outputs[0].cumulative_logprob, output.num_cached_tokens

    engine.forget_cache()
    alone, cached = ask(mixture)
    assert cached == 0
    engine.forget_cache()
    base, _ = ask(None)
    everywhere, cached = ask(mixture, Start(token=0))
    assert cached == 0, "blocks of the base model are not those of a mixture that acts from the first token"
    again, cached = ask(mixture)
    assert cached > 3 * BLOCK, "the base model's"
    assert again == pytest.approx(alone, abs=1e-3)
    assert min(abs(one - other) for one, other in combinations((base, everywhere, alone), 2)) > 0.01
    engine.forget_cache()


def test_the_table_of_the_load_test() -> None:
    from loadtests.conversation import Result

    some = [Turn(way, n, 100 * n, None, n) for way in ("base", "question") for n in (1, 2)]
    shown = table(Result(this_machine("float32"), BLOCK, some))
    assert [column.header for column in shown.columns] == ["turn", "prompt", "of it new", "base", "question"]
    assert [list(column.cells) for column in shown.columns] == [
        ["1", "2"], ["100", "200"], ["100", "100"], ["1", "2"], ["1", "2"],
    ]  # fmt: skip
