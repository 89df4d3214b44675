"""The benchmark of shared prefixes: what is asked, and how figures are made of answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from loadtests import prefix_child
from loadtests.engine_child import Job
from loadtests.prefix import CASES, MANY, PREFIXES, Case, row
from loadtests.prefix_child import QUESTION, Answered, Ask


def test_the_base_model_is_asked_the_same_questions() -> None:
    case = Case(2000, "all-different", 2000)
    base, ours = case.asks(3, "none"), case.asks(3, "all-different")
    assert (base.seed, base.prefix, base.requests) == (ours.seed, ours.prefix, ours.requests)
    assert (base.mixtures, ours.mixtures, ours.start) == ("none", "all-different", 2000)
    seeds = [each.asks(turn, "none").seed for each in CASES for turn in range(-2, 3)]
    assert len(set(seeds)) == len(seeds), "no question twice: its blocks would be in the cache"


def test_every_prefix_is_asked_with_mixtures_from_the_question_on() -> None:
    asked = {(case.prefix, case.mixtures, case.start, case.requests) for case in CASES}
    assert {(n, "all-different", n, 1) for n in PREFIXES} <= asked
    assert (2000, "all-different", 0, 1) in asked
    assert (2000, "all-different", 2000, MANY) in asked


def test_a_ratio_is_of_neighbours() -> None:
    pairs = [
        (Answered(0.1, 112), Answered(0.11, 112)),
        (Answered(0.2, 112), Answered(0.22, 112)),
        (Answered(0.1, 112), Answered(0.30, 2032)),
    ]
    found = row(Case(2000, "equal", 2000), pairs)
    assert (found.base_ms, found.ours_ms, found.ratio) == (100.0, 220.0, 1.1)
    assert (found.base_computed_tokens, found.computed_tokens) == (112, 752)


class Engine:
    """Takes requests as vLLM's does, and answers all of them in one step; 5 tokens were in the cache."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[int], Any, Any]] = []
        self.waiting: list[Any] = []

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any, lora_request: Any) -> None:
        self.requests.append((prompt["prompt_token_ids"], params, lora_request))
        self.waiting.append(SimpleNamespace(request_id=name, finished=True, num_cached_tokens=5))

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Any]:
        done, self.waiting = self.waiting, []
        return done


@pytest.mark.parametrize(("mixtures", "different"), [("none", 1), ("equal", 1), ("all-different", 6)])
def test_requests_share_a_prefix_and_have_their_mixtures(
    mixtures: str, different: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Engine()
    monkeypatch.setattr(prefix_child, "engine", lambda _job: SimpleNamespace(llm_engine=llm))
    monkeypatch.setattr(prefix_child, "hold", lambda *_: None)
    adapters = [(f"{n:064x}", f"/adapters/{n}") for n in range(8)]
    bench = prefix_child.Bench(Job("mega", "model", "bfloat16", False, 4, [], adapters))
    for turn in range(2):
        answered = bench.measure(Ask(20, mixtures, 20, 3, 1, f"turn {turn}"))
        assert answered.computed == 20 + QUESTION - 5
    prompts = [prompt for prompt, _, _ in llm.requests]
    assert len({tuple(prompt[:20]) for prompt in prompts}) == 1
    assert len({tuple(prompt[20:]) for prompt in prompts}) == 6
    assert {params.extra_args["mega_start"] for _, params, _ in llm.requests} == {20}
    assert len({lora and lora.lora_name for _, _, lora in llm.requests}) == different
    assert all((lora is None) == (mixtures == "none") for _, _, lora in llm.requests)
