"""What we rely on in vLLM where an engine is configured. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use

_MEMORY = "vLLM has a way to carry mixtures"

CONFIGURATION = (
    Use(
        "vllm.config.vllm:VllmConfig",
        by="engine.checks engine.configuration engine.prefetch engine.settings engine.upstream.replacements "
        "engine.worker http.endpoints http.limit http.metrics http.tracing",
        why="An engine's configuration says whether it has memory, and whether it can.",
        until="platforms have a hook for plugins",
        reads="additional_config compilation_config instance_id kv_transfer_config lora_config model_config "
        "observability_config parallel_config scheduler_config",
    ),
    Use(
        "vllm.config.observability:ObservabilityConfig",
        by="http.tracing",
        why="Requests with memory are traced where vLLM traces.",
        reads="otlp_traces_endpoint",
    ),
    Use(
        "vllm.config.parallel:ParallelConfig",
        by="engine.configuration engine.prefetch http.endpoints http.limit http.metrics",
        why="What cannot be had with mixtures is refused; our worker extension is put in; engines counted.",
        until="vLLM says how many engines an API server has",
        reads="_api_process_count data_parallel_rank data_parallel_size data_parallel_size_local "
        "local_engines_only pipeline_parallel_size prefill_context_parallel_size use_ubatching "
        "worker_extension_cls",
    ),
    Use(
        "vllm.config.scheduler:SchedulerConfig",
        by="engine.configuration http.limit",
        why="Our scheduler is put in where no other is.",
        reads="max_num_seqs scheduler_cls",
    ),
    Use(
        "vllm.config.lora",
        by="http.launch",
        why="Slots are made as large as the bank's largest adapter needs: one of the ranks that vLLM allows.",
        says=("MaxLoRARanks = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]",),
    ),
    Use(
        "vllm.config.lora:LoRAConfig",
        by="engine.checks engine.configuration engine.manager engine.scheduler engine.upstream.replacements "
        "engine.worker http.endpoints",
        why="Slots, ranks, types and layers of the LoRA that mixtures are computed with.",
        reads="fully_sharded_loras lora_dtype max_cpu_loras max_lora_rank max_loras specialize_active_lora "
        "target_modules",
    ),
    Use(
        "vllm.config.model:ModelConfig",
        by="engine.checks engine.configuration engine.upstream.replacements engine.worker offline "
        "http.beforehand http.chat http.endpoints http.handlers offline_chat "
        "hook.inserting hook.starting",
        why="Where the model is, how long its context is, and what of it cannot be had with mixtures.",
        reads="enable_prompt_embeds enable_sleep_mode is_moe max_model_len model trust_remote_code",
    ),
    Use(
        "vllm.config.kv_transfer:KVTransferConfig",
        by="engine.configuration",
        why="Connectors that know KV by its tokens alone are refused.",
        until=_MEMORY,
        reads="kv_connector kv_connector_extra_config",
    ),
    Use(
        "vllm.distributed.kv_transfer.kv_connector.factory",
        by="engine.configuration",
        why="How the refused connectors are called.",
        until=_MEMORY,
        says=(
            '"ExampleConnector"',
            '"HF3FSKVConnector"',
            '"LMCacheConnectorV1"',
            '"LMCacheMPConnector"',
            '"MultiConnector"',
        ),
    ),
    Use(
        "vllm.config.compilation:CompilationConfig",
        by="engine.upstream.replacements",
        why="What stock switches off on CPUs is switched on again.",
        until="the stock CPU LoRA path can be compiled",
        reads="mode",
    ),
    Use(
        "vllm.config:CompilationMode",
        by="engine.upstream.replacements",
        why="What stock switches off on CPUs is switched on again.",
        until="the stock CPU LoRA path can be compiled",
        reads="DYNAMO_TRACE_ONCE VLLM_COMPILE",
    ),
    Use(
        "vllm.platforms",
        by="engine.upstream.applying",
        why="The patches of CUDA's platform are for CUDA alone.",
        reads="current_platform",
    ),
    Use(
        "vllm.platforms.interface:Platform",
        by="engine.upstream.applying",
        why="The patches of CUDA's platform are for CUDA alone.",
        calls={"is_cuda": ""},
    ),
    Use(
        "vllm.plugins",
        by="plugin",
        why="Where vLLM finds us.",
        says=('"vllm.general_plugins"', '"vllm.endpoint_plugins"'),
    ),
    Use(
        "vllm.envs",
        by="engine.configuration http.door http.endpoints http.launch",
        why="Variables that we set for vLLM, or that it must not have.",
        says=(
            '"VLLM_API_KEY"',
            '"VLLM_BATCH_INVARIANT"',
            '"VLLM_CPU_KVCACHE_SPACE"',
            '"VLLM_CPU_OMP_THREADS_BIND"',
            '"VLLM_LORA_ENABLE_DUAL_STREAM"',
            '"VLLM_PLUGINS"',
            '"VLLM_SKIP_MODEL_NAME_VALIDATION"',
        ),
    ),
)
"""In every process that has a configuration."""
