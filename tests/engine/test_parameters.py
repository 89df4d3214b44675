"""Whatever a client asks of sampling: the engine answers. An error inside a step would end it, for all."""

from __future__ import annotations

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


@pytest.mark.parametrize("asked", PARAMETERS, ids=str)
def test_every_parameter_with_a_prompt_in_chunks(engine: Engine, adapters: Adapters, asked: dict[str, Any]):
    from vllm import SamplingParams

    prompt = "The lamp of the harbour is red. " * 20
    assert len(engine.llm.get_tokenizer()(prompt).input_ids) > 1.2 * ENGINE_ARGS["max_num_batched_tokens"]
    params = SamplingParams(**{"temperature": 0.9, "max_tokens": 6} | asked)
    loras = [to_lora_request(mixture) for mixture in (adapters.mixture((0, 0.5), (1, 1.0)), Mixture())]
    engine.forget_cache()
    answers = engine.llm.generate([prompt] * 2, params, lora_request=loras, use_tqdm=False)
    assert [len(answer.outputs) for answer in answers] == [params.n] * 2
    assert all(output.finish_reason in {"stop", "length"} for answer in answers for output in answer.outputs)
    engine.forget_cache()
