"""Patches of vLLM's two model runners, which tell every token of a step its adapter, and sample."""

from __future__ import annotations

from typing import Any

from vllm_mega.engine.runners import (
    StartedBatch,
    note_starts,
    second_runner_inputs,
    without_draws_to_discard,
)
from vllm_mega.engine.upstream.of_worker import GENERATORS
from vllm_mega.engine.upstream.patch import Patch

STARTS = "a LoRARequest can say from which token it acts (vLLM has no such field)"


def _first_runner(original: Any) -> Any:
    def set_active_loras(self: Any, input_batch: Any, *args: Any, **kwargs: Any) -> None:
        original(self, StartedBatch(input_batch, self.requests), *args, **kwargs)

    return set_active_loras


def _second_runner_requests(original: Any) -> Any:
    def add_requests(self: Any, scheduler_output: Any) -> None:
        original(self, scheduler_output)
        note_starts(self, scheduler_output)

    return add_requests


def _second_runner(original: Any) -> Any:
    def make_lora_inputs(self: Any, req_ids: Any, idx_mapping: Any, num_scheduled_tokens: Any) -> Any:
        inputs = original(self, req_ids, idx_mapping, num_scheduled_tokens)
        return second_runner_inputs(self, inputs, idx_mapping, num_scheduled_tokens)

    return make_lora_inputs


def _sampling(original: Any) -> Any:
    def sample_tokens(self: Any, grammar_output: Any) -> Any:
        if self.device.type != "cpu":
            return original(self, grammar_output)
        with without_draws_to_discard(self):
            return original(self, grammar_output)

    return sample_tokens


RUNNER_PATCHES = (
    Patch(
        module="vllm.v1.worker.lora_model_runner_mixin",
        target="LoRAModelRunnerMixin.set_active_loras",
        parameters=("self", "input_batch", "num_scheduled_tokens", "num_sampled_tokens", "mapping_type"),
        why="The first runner gives all tokens of a request its LoRA; those before start have none.",
        until=STARTS,
        make=_first_runner,
    ),
    Patch(
        module="vllm.v1.worker.gpu.model_runner",
        target="GPUModelRunner.add_requests",
        parameters=("self", "scheduler_output"),
        why="Where the second runner learns of a request: its LoRA state is not told its start.",
        until=STARTS,
        make=_second_runner_requests,
    ),
    Patch(
        module="vllm.v1.worker.gpu.lora_utils",
        target="LoraState.make_lora_inputs",
        parameters=("self", "req_ids", "idx_mapping", "num_scheduled_tokens"),
        why="The second runner gives all tokens of a request its LoRA; those before start have none.",
        until=STARTS,
        make=_second_runner,
    ),
    Patch(
        module="vllm.v1.worker.gpu_model_runner",
        target="GPUModelRunner.sample_tokens",
        parameters=("self", "grammar_output"),
        why="On a CPU, a request with a seed whose prompt comes in chunks ends the engine, for all.",
        until=GENERATORS,
        make=_sampling,
    ),
)
"""Only in processes that run the model, once they have our LoRA manager: the runners are slow to import."""
