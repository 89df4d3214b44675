"""Whatever a client asks of sampling: the engine answers. An error inside a step would end it, for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.adapters import Adapters
from tests.engine.conftest import ENGINE_ARGS, Engine
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.mixture import Mixture

pytestmark = pytest.mark.engine

PARAMETERS: tuple[dict[str, Any], ...] = (
    {"seed": 0},
    {"seed": -1},
    {"seed": 2**63 - 1},
    {"seed": 3, "n": 3},
    {"seed": 3, "top_k": 5, "top_p": 0.5, "min_p": 0.1},
    {"top_k": 10**9},
    {"top_p": 1e-9},
    {"min_p": 1.0},
    {"temperature": 1e-9},
    {"temperature": 2.0, "seed": -(2**63)},
    {"presence_penalty": 2.0, "frequency_penalty": -2.0, "repetition_penalty": 1.7},
    {"repetition_penalty": 1e-9},
    {"logit_bias": {0: 100.0, 7: -100.0}},
    {"allowed_token_ids": [5]},
    {"bad_words": ["lamp", "the harbour is red"]},
    {"stop": ["a", "lamp"], "include_stop_str_in_output": True},
    {"stop_token_ids": [3], "min_tokens": 5},
    {"logprobs": 20, "prompt_logprobs": 20},
    {"logprobs": 0, "seed": 2},
    {"prompt_logprobs": 0, "seed": 2},
    {"detokenize": False, "seed": 2},
    {"skip_special_tokens": False, "spaces_between_special_tokens": False},
)

PROMPT = "The lamp of the harbour is red. " * 20


def answers(engine: Engine, params: Any, *mixtures: Mixture) -> list[Any]:
    """What is said to a prompt that comes in chunks, unless it is in the cache."""
    assert len(engine.llm.get_tokenizer()(PROMPT).input_ids) > 1.2 * ENGINE_ARGS["max_num_batched_tokens"]
    loras = [to_lora_request(mixture) for mixture in mixtures]
    return list(engine.llm.generate([PROMPT] * len(loras), params, lora_request=loras, use_tqdm=False))


@pytest.fixture
def mixture(engine: Engine, adapters: Adapters) -> Iterator[Mixture]:
    engine.forget_cache()
    yield adapters.mixture((0, 0.5), (1, 1.0))
    engine.forget_cache()


@pytest.mark.parametrize("asked", PARAMETERS, ids=str)
def test_every_parameter_with_a_prompt_in_chunks(engine: Engine, mixture: Mixture, asked: dict[str, Any]):
    from vllm import SamplingParams

    params = SamplingParams(**{"temperature": 0.9, "max_tokens": 6} | asked)
    found = answers(engine, params, mixture, Mixture())
    assert [len(answer.outputs) for answer in found] == [params.n] * 2
    assert all(output.finish_reason in {"stop", "length"} for answer in found for output in answer.outputs)


def test_what_is_drawn_before_the_last_chunk_does_not_move_a_seed_on(engine: Engine, mixture: Mixture):
    from vllm import SamplingParams

    seeded = SamplingParams(temperature=0.8, seed=7, max_tokens=8, ignore_eos=True)

    def tokens(*mixtures: Mixture) -> tuple[int, ...]:
        return tuple(answers(engine, seeded, *mixtures)[0].outputs[0].token_ids)

    in_chunks = tokens(mixture)
    cached = tokens(mixture)
    engine.forget_cache()
    assert in_chunks == cached == tokens(mixture, Mixture())
