"""Random traffic: whatever comes together, in whatever order, every request gets what it gets alone."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.adapters import Adapters
from tests.engine.conftest import SLOTS, Answer, Engine
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine
PROMPTS = ("The ferry left", "A long list of names: " + ", ".join(f"Brisk {n}" for n in range(30)))
MIXTURES: tuple[tuple[tuple[int, float], ...], ...] = (
    (),
    ((0, 1.0),),
    ((1, 0.5), (2, 0.75)),
    ((3, 1.0), (4, -0.25), (5, 0.5)),
    ((0, 0.25), (2, 0.5), (4, 0.5), (6, 1.0)),
    ((5, 1.5), (6, -0.5)),
)
TOKENS = 12

requests = st.lists(
    st.tuples(
        st.integers(0, len(PROMPTS) - 1),
        st.integers(0, len(MIXTURES) - 1),
        st.integers(0, 4),  # steps between this arrival and the one before
        st.booleans(),  # whether the adapters' folders are of its own, and are deleted half-way
    ),
    min_size=2,
    max_size=9,
)


@pytest.fixture(scope="module")
def alone(engine: Engine, adapters: Adapters) -> Any:
    """What each prompt and mixture gives with nothing else in the engine."""

    @cache
    def answer(prompt: int, mixture: int) -> Answer:
        return engine.alone([(PROMPTS[prompt], adapters.mixture(*MIXTURES[mixture]))], TOKENS)[0]

    return answer


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.randoms())
def test_random_traffic_equals_each_request_alone(engine, adapters, alone, tmp_path_factory, plan, random):
    root = tmp_path_factory.mktemp("forgotten")
    doomed = [_mixture(adapters, root / str(n), m) for n, (_, m, _, own) in enumerate(plan) if own]
    own = iter(doomed)
    arrivals, step = [], 0
    for n, (prompt, mixture, wait, forgotten) in enumerate(plan):
        step += wait
        chosen = next(own) if forgotten else adapters.mixture(*MIXTURES[mixture])
        arrivals.append((step, str(n), PROMPTS[prompt], chosen))
    forget_at = random.randint(0, step + 2)

    answers = _run(engine, arrivals, {forget_at: lambda: shutil.rmtree(root)})

    for n, (prompt, mixture, _, forgotten) in enumerate(plan):
        want = alone(prompt, mixture).tokens
        if forgotten and mixture:
            assert answers[str(n)] in {want, ()}, "its own memories to the end, or an error: nothing else"
        else:
            assert answers[str(n)] == want
    assert len(engine.manager._adapter_manager._active_adapters) <= SLOTS


def _mixture(adapters: Adapters, folder: Path, number: int) -> Mixture:
    parts = []
    for n, weight in MIXTURES[number]:
        shutil.copytree(adapters.folders[n], folder / str(n))
        parts.append((adapters.digests[n], str(folder / str(n)), weight))
    return Mixture(parts)


def _run(engine: Engine, arrivals: list[tuple[int, str, str, Mixture]], events: dict[int, Any]):
    from vllm import SamplingParams

    from vllm_mega.engine.adapters import to_lora_request

    llm, params = engine.llm.llm_engine, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers: dict[str, tuple[int, ...]] = {}
    coming, step = list(arrivals), 0
    while coming or llm.has_unfinished_requests() or any(at >= step for at in events):
        if step in events:
            events[step]()
        while coming and coming[0][0] <= step:
            _, name, prompt, mixture = coming.pop(0)
            llm.add_request(name, prompt, params, lora_request=to_lora_request(mixture))
        for output in llm.step():
            if output.finished:
                answers[output.request_id] = tuple(output.outputs[0].token_ids)
        step += 1
        assert step < 2000, "starved"
    return answers
