"""One real engine for the session, in this process, in float32: exactness is not hidden by rounding.

Its model is small and random: what is asked here is which numbers are added to which, and the default model
answers that, only more slowly. `test_other_engines` asks it once; servers of other tests have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engine.adapters import Adapters
from tests.engine.by_position import ByPosition
from tests.engine.tiny import LAYERS, tiny_model
from vllm_mega.mixture import Mixture
from vllm_mega.models import linear_shapes

SLOTS = 4
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "enable_lora": True,
    "max_loras": SLOTS,
    "max_cpu_loras": SLOTS + 1,
    "max_lora_rank": 8,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 96,  # prompts of the tests are longer: prefill comes in chunks
    "block_size": 32,  # the CPU default of 128 would leave short prompts without prefix caching
    "kv_cache_memory_bytes": 40 * 48 * 2**10,  # 40 blocks of the model: long answers preempt each other
    "enable_prefix_caching": True,
}


class Answer(NamedTuple):
    """What the engine said to one request."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int


class Engine:
    """The engine as the tests use it."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def ask(
        self, requests: Sequence[tuple[str, Any]], max_tokens: int = 8, starts: Sequence[Any] = ()
    ) -> list[Answer]:
        """Run (prompt, Mixture | LoRARequest | None) pairs in one batch, greedily.

        `starts`: from which token each one's mixture acts; empty: all from the first.
        """
        from vllm import SamplingParams

        from vllm_mega.engine.adapters import to_lora_request
        from vllm_mega.engine.start import starting_at

        params = [
            SamplingParams(
                temperature=0,
                max_tokens=max_tokens,
                logprobs=0,
                ignore_eos=True,
                extra_args=starting_at(start),
            )
            for start in starts or [0] * len(requests)
        ]
        loras = [to_lora_request(x) if isinstance(x, Mixture) else x for _, x in requests]
        prompts = [prompt for prompt, _ in requests]
        outputs = self.llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
        return [
            Answer(
                tuple(o.outputs[0].token_ids),
                tuple(
                    p[t].logprob for p, t in zip(o.outputs[0].logprobs, o.outputs[0].token_ids, strict=True)
                ),
                o.num_cached_tokens,
            )
            for o in outputs
        ]

    def alone(self, requests: Sequence[tuple[str, Any]], max_tokens: int = 8) -> list[Answer]:
        """The same, one after the other, each with an empty prefix cache."""
        answers = []
        for request in requests:
            self.forget_cache()
            answers += self.ask([request], max_tokens)
        self.forget_cache()
        return answers

    def forget_cache(self) -> None:
        assert self.llm.reset_prefix_cache()

    @property
    def scheduler(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def manager(self) -> Any:
        worker = self.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
        return worker.model_runner.lora_manager


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Adapters:
    folder = tmp_path_factory.mktemp("adapters")
    return Adapters(folder, linear_shapes(model), layers=LAYERS, scale=0.3)


@pytest.fixture(scope="session")
def reference(model: Path) -> ByPosition:
    return ByPosition(model)


@pytest.fixture(scope="session")
def engine(model: Path) -> Iterator[Engine]:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["VLLM_PLUGINS"] = "vllm_mega"
    from vllm import LLM

    llm = LLM(str(model), enforce_eager=True, additional_config={"mega": {"bank": "unused"}}, **ENGINE_ARGS)
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]  # servers that later tests start have workers
    yield Engine(llm)
    llm.llm_engine.engine_core.shutdown()
