"""Every patch of vLLM but those of its model runners: what, why, and when it can go. Data."""

from __future__ import annotations

from vllm_mega.engine.upstream import replacements
from vllm_mega.engine.upstream.patch import Patch
from vllm_mega.engine.upstream.runner_patches import STARTS

PATCHES = (
    Patch(
        module="vllm.v1.worker.lora_model_runner_mixin",
        target="LRUCacheWorkerLoRAManager",
        parameters=("vllm_config", "device", "embedding_modules", "lora_model_cls"),
        why="Both model runners build their LoRA manager here by name; ours loads mixtures.",
        until="vLLM lets a plugin choose the worker LoRA manager",
        make=replacements.worker_manager,
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
        make=replacements.door,
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
        make=replacements.intake,
    ),
    Patch(
        module="vllm.v1.engine.core",
        target="EngineCore.collective_rpc",
        parameters=("self", "method", "timeout", "args", "kwargs"),
        why=(
            "What is forgotten must leave the scheduler, too: it knows who runs, and whose the blocks of the "
            "prefix cache are. A client of the engine can call workers, and vLLM's own methods, alone."
        ),
        until="a plugin can add methods that an engine's client can call",
        make=replacements.engine_calls,
    ),
    Patch(
        module="vllm.v1.metrics.stats",
        target="LoRARequestStates._request_update",
        parameters=("self", "req_id", "lora_name", "waiting", "running"),
        why="LoRA names are metric labels: thousands of mixtures must not become thousands of label values.",
        until="vllm:lora_requests_info has bounded labels",
        make=replacements.lora_stats,
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
        make=replacements.cpu_config,
    ),
    Patch(
        module="vllm.config.vllm",
        target="VllmConfig.compute_hash",
        parameters=("self", "include_version"),
        why="additional_config is part of the hash: another setting of the gate would compile it all again.",
        until="a plugin's settings can stay out of the hash, and the rest of additional_config in it",
        make=replacements.compile_hash,
    ),
    *(
        Patch(
            module=module,
            target="generate_block_hash_extra_keys",
            parameters=("request", "start_token_idx", "end_token_idx", "start_mm_idx"),
            why="Every block of a request carries its LoRA; those before start are the base model's.",
            until=STARTS,
            make=replacements.block_hashes,
        )
        # Where it is made, and those who have imported it by then.
        for module in (
            "vllm.v1.core.kv_cache_utils",
            "vllm.v1.core.block_pool",
            "vllm.v1.simple_kv_offload.manager",
        )
    ),
)

CUDA_PATCH = Patch(
    module="vllm.platforms.cuda",
    target="CudaPlatformBase.check_and_update_config",
    parameters=("cls", "vllm_config"),
    why="The first place that sees the whole configuration: chooses our scheduler, refuses what cannot be.",
    until="platforms have a hook for plugins",
    make=replacements.cuda_config,
)
"""Only where vLLM runs on CUDA: its module cannot be imported elsewhere."""

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
        make=replacements.short_message,
    )
    for module in (
        "serve.exception_handling.utils",  # its home: for who imports it later (cohere, realtime)
        "serve.exception_handling.error_response",
        "serve.exception_handling.handlers.http",
        "serve.exception_handling.handlers.validation",
        "anthropic.serving",
    )
)
"""Only in processes that answer clients: the modules bring a web framework."""
