"""Every patch of vLLM, and nothing else.

A patch says what it replaces, why, and when it can go. It is applied once however often it is asked
for, and refuses loudly when the target is not what it was written for. All of them step aside unless
the engine was configured with vllm_mega's settings, so an engine without them is stock vLLM.
"""

from __future__ import annotations

from typing import Any

from vllm_mega.engine.configuration import NO_EXPERTS, configure
from vllm_mega.engine.patch import Patch
from vllm_mega.engine.runners import StartedBatch, note_starts, second_runner_inputs
from vllm_mega.engine.settings import settings_of
from vllm_mega.engine.start import block_keys, carries_mixture
from vllm_mega.errors import ConfigError
from vllm_mega.mixture import NAME_PREFIX


def _worker_manager(original: Any) -> Any:
    def make_manager(vllm_config: Any, device: Any, embedding_modules: Any) -> Any:
        if settings_of(vllm_config) is None:
            return original(vllm_config, device, embedding_modules)
        for patch in RUNNER_PATCHES:
            patch.apply()
        from vllm_mega.engine.worker import MegaWorkerLoRAManager

        return MegaWorkerLoRAManager(vllm_config, device, embedding_modules)

    return make_manager


def _door(original: Any) -> Any:
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        if request.lora_request is not None and carries_mixture(request.lora_request):
            if settings_of(self.vllm_config) is None:
                raise ConfigError(
                    "this engine was started without vllm_mega's settings; it cannot run mixtures"
                )
            from vllm_mega.engine.adapters import check_request

            check_request(request, self.lora_config.max_loras)
        return request

    return process_inputs


def _intake(original: Any) -> Any:
    def preprocess_add_request(self: Any, request: Any) -> Any:
        prepared = original(self, request)
        if settings_of(self.vllm_config) is not None:
            self.scheduler.expect(request.request_id, request.lora_request)
        return prepared

    return preprocess_add_request


def _lora_stats(original: Any) -> Any:
    def _request_update(self: Any, req_id: str, lora_name: str | None, waiting: bool, running: bool) -> None:
        if lora_name is not None and lora_name.startswith(NAME_PREFIX):
            lora_name = "mega"
        original(self, req_id, lora_name, waiting, running)

    return _request_update


def _cuda_config(original: Any) -> Any:
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        original(cls, vllm_config)
        if settings_of(vllm_config) is not None:
            configure(vllm_config)

    return check_and_update_config


def _cpu_config(original: Any) -> Any:
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        from vllm.config import CompilationMode

        compilation = vllm_config.compilation_config
        before = compilation.mode
        original(cls, vllm_config)
        if settings_of(vllm_config) is None:
            return
        configure(vllm_config)
        if vllm_config.model_config.is_moe:
            raise ConfigError(f"the model is a mixture of experts: {NO_EXPERTS}")
        if before in (CompilationMode.VLLM_COMPILE, CompilationMode.DYNAMO_TRACE_ONCE):
            compilation.mode = CompilationMode.DYNAMO_TRACE_ONCE

    return check_and_update_config


def _block_keys(original: Any) -> Any:
    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[Any, int]:
        keys, mm_index = original(request, start_token_idx, end_token_idx, start_mm_idx)
        return block_keys(keys, request, start_token_idx, end_token_idx), mm_index

    return generate_block_hash_extra_keys


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


def _short_message(original: Any) -> Any:
    def sanitize_message(message: str) -> str:
        return str(original(message[:MESSAGE]))

    return sanitize_message


STARTS = "a LoRARequest can say from which token it acts (vLLM has no such field)"

PATCHES = (
    Patch(
        module="vllm.v1.worker.lora_model_runner_mixin",
        target="LRUCacheWorkerLoRAManager",
        parameters=("vllm_config", "device", "embedding_modules", "lora_model_cls"),
        why="Both model runners build their LoRA manager here by name; ours loads mixtures.",
        until="vLLM lets a plugin choose the worker LoRA manager",
        make=_worker_manager,
    ),
    Patch(
        module="vllm.v1.engine.input_processor",
        target="InputProcessor.process_inputs",
        parameters=(
            *("self", "request_id", "prompt", "params", "supported_tasks", "arrival_time", "lora_request"),
            *("tokenization_kwargs", "trace_headers", "priority", "data_parallel_rank", "resumable"),
            *("session_id", "kv_hints"),
        ),
        why=(
            "A mixture wider than the slots, or with a start beyond its prompt, must be refused at the door: "
            "inside the engine it is too late. Only here are prompt and parameters known."
        ),
        until="vLLM lets a plugin validate LoRA requests",
        make=_door,
    ),
    Patch(
        module="vllm.v1.engine.core",
        target="EngineCore.preprocess_add_request",
        parameters=("self", "request"),
        why=(
            "Runs while the model computes, so adapters are held, checked and loaded before their request is "
            "scheduled; the scheduler itself hears of a request only between steps."
        ),
        until="the scheduler is told of a request when it arrives",
        make=_intake,
    ),
    Patch(
        module="vllm.v1.metrics.stats",
        target="LoRARequestStates._request_update",
        parameters=("self", "req_id", "lora_name", "waiting", "running"),
        why="LoRA names are metric labels: thousands of mixtures must not become thousands of label values.",
        until="vllm:lora_requests_info has bounded labels",
        make=_lora_stats,
    ),
    Patch(
        module="vllm.platforms.cpu",
        target="CpuPlatform.check_and_update_config",
        parameters=("cls", "vllm_config"),
        why=(
            "Stock switches compilation off when LoRA is on, because its CPU path cannot be compiled; "
            "ours is one opaque operator. Also the first place that sees the whole configuration."
        ),
        until="the stock CPU LoRA path can be compiled, and platforms have a hook for plugins",
        make=_cpu_config,
    ),
    *(
        Patch(
            module=module,
            target="generate_block_hash_extra_keys",
            parameters=("request", "start_token_idx", "end_token_idx", "start_mm_idx"),
            why="Every block of a request carries its LoRA; those before start are the base model's.",
            until=STARTS,
            make=_block_keys,
        )
        # Where it is made, and those who have imported it by then.
        for module in (
            "vllm.v1.core.kv_cache_utils",
            "vllm.v1.core.block_pool",
            "vllm.v1.simple_kv_offload.manager",
        )
    ),
)
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
)
"""Only in processes that run the model, once they have our LoRA manager: the runners are slow to import."""

CUDA_PATCH = Patch(
    module="vllm.platforms.cuda",
    target="CudaPlatformBase.check_and_update_config",
    parameters=("cls", "vllm_config"),
    why="The first place that sees the whole configuration: chooses our scheduler, refuses what cannot be.",
    until="platforms have a hook for plugins",
    make=_cuda_config,
)
"""Only where vLLM runs on CUDA: its module cannot be imported elsewhere."""

MESSAGE = 1000
"""Characters of an error that reach a client."""
SERVER_PATCHES = tuple(
    Patch(
        module=f"vllm.entrypoints.{module}",
        target="sanitize_message",
        parameters=("message",),
        why=(
            "Errors repeat what a client sent, and are cleaned of paths by patterns that take cubic time: "
            "32 KB of '/a/a/a' as a model's name hold the event loop for two minutes."
        ),
        until="vLLM cleans messages in linear time",
        make=_short_message,
    )
    for module in (
        "serve.exception_handling.error_response",
        "serve.exception_handling.handlers.http",
        "serve.exception_handling.handlers.validation",
        "anthropic.serving",
    )
)
"""Only in processes that answer clients: the modules bring a web framework."""


def apply() -> None:
    """Apply every patch; any process may call it, any number of times.

    Raises:
        UpstreamError: vLLM is not the one that the patches were written for.
    """
    from vllm.platforms import current_platform

    for patch in (*PATCHES, CUDA_PATCH) if current_platform.is_cuda() else PATCHES:
        patch.apply()


def apply_to_server() -> None:
    """Apply what only concerns those who answer clients; as `apply`."""
    for patch in SERVER_PATCHES:
        patch.apply()
