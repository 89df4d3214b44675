"""What we rely on in vLLM to start it: as a server, for files of requests, offline. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream.of_releases import ENVIRONMENT, SERVER_OPTIONS

_OFFLINE = "`LLM.chat` takes a LoRARequest for each conversation, and extra_args once it is rendered"

_PARSER = Use(
    "vllm.utils.argparse_utils:FlexibleArgumentParser",
    by="batch.engine http.given http.vllm_serve",
    why="What a user says of vLLM is read by vLLM's own parser; ours raises what it would print.",
    calls={"parse_args": "args"},
    overrides={"error": "self message"},
)

SERVE = (
    _PARSER,
    Use(
        "vllm.entrypoints.cli.serve:ServeSubcommand",
        by="http.vllm_serve",
        why="`vllm serve`, without the command line that asks for a distribution called vllm.",
        until="vLLM's command line starts with the CPU build",
        calls={"cmd": "args", "subparser_init": "subparsers", "validate": "args"},
    ),
    *ENVIRONMENT,
    Use(
        "vllm.logger",
        by="http.vllm_serve",
        why="As vLLM's own command line does.",
        until="vLLM's command line starts with the CPU build",
        calls={"configure_logging_from_args": "args"},
    ),
)
"""Where a server starts."""

BATCH = (
    _PARSER,
    *SERVER_OPTIONS,
    Use(
        "vllm.entrypoints.launchers.api_server.entry",
        by="batch.engine",
        why="An engine in this process, with the options of a server.",
        calls={"build_async_engine_client": "async args"},
    ),
    Use(
        "vllm.entrypoints.launchers.api_server.app_state",
        by="batch.engine",
        why="The handlers of a server, without the server.",
        calls={"init_app_state": "async engine_client state args supported_tasks"},
    ),
)
"""Where files of requests are answered."""

OFFLINE = (
    Use(
        "vllm.entrypoints.llm:LLM",
        by="offline offline_chat",
        why="Each conversation has its own mixture, from a start that only its rendered prompt tells.",
        until=_OFFLINE,
        calls={
            "_preprocess_chat_one": "conversation chat_template=",
            "_render_and_add_requests": "prompts params lora_requests=",
            "_run_engine": "output_type use_tqdm=",
            "get_tokenizer": "",
        },
        reads="chat_template llm_engine model_config renderer",
    ),
    Use(
        "vllm",
        by="offline offline_chat",
        why="The offline class, what it takes and what it gives.",
        says=('"LLM": ', '"RequestOutput": ', '"SamplingParams": '),
    ),
    Use(
        "vllm.v1.engine.llm_engine:LLMEngine",
        by="offline",
        why="The engine's configuration, and its processes, which are ended with patience.",
        until="`LLM` can be closed",
        reads="engine_core vllm_config",
    ),
    Use(
        "vllm.v1.engine.core_client:MPClient",
        by="offline",
        why="The engine's processes are ended with patience.",
        until="`LLM` can be closed",
        calls={"shutdown": "timeout="},
    ),
    Use(
        "vllm.outputs:CompletionOutput",
        by="offline",
        why="An answer, or that the engine has ended it.",
        reads="finish_reason text",
    ),
    Use(
        "vllm.outputs:RequestOutput",
        by="offline offline_chat",
        why="An answer, or that the engine has ended it.",
        reads="outputs",
    ),
    Use(
        "vllm.renderers:ChatParams",
        by="offline_chat",
        why="A prompt is rendered once more, to see where the question begins.",
        until=_OFFLINE,
        reads="chat_template chat_template_kwargs",
    ),
    Use(
        "vllm.renderers.params:TokenizeParams",
        by="offline_chat",
        why="A prompt is rendered once more, to see where the question begins.",
        until=_OFFLINE,
        calls={"with_kwargs": "add_special_tokens= truncate_prompt_tokens= truncation_side="},
    ),
    Use(
        "vllm.utils.mistral",
        by="offline_chat",
        why="Templates of Mistral's give token ids, not text.",
        until=_OFFLINE,
        calls={"is_mistral_tokenizer": "obj"},
    ),
)
"""Where `MegaLLM` is made."""

OPTIONS = (
    Use(
        "vllm.engine.arg_utils:EngineArgs",
        by="offline http.given http.launch",
        why="Options that follow from the bank.",
        reads="additional_config compilation_config data_parallel_size dtype enable_lora enforce_eager "
        "gpu_memory_utilization kv_cache_memory_bytes lora_target_modules max_cpu_loras max_lora_rank "
        "max_loras optimization_level scheduler_cls tensor_parallel_size trust_remote_code",
    ),
)
"""Checked in source trees alone: of an option that it does not know, vLLM itself says so."""

PROCESSES = (
    Use(
        "vllm.v1.engine.utils",
        by="engine.lifeline",
        why="vLLM's processes are known by their names, and end with whoever started them.",
        until="vLLM ends its processes when the one that started them was killed",
        says=('else "EngineCore"',),
    ),
    Use(
        "vllm.v1.executor.multiproc_executor",
        by="engine.lifeline",
        why="As for the engine core.",
        until="vLLM ends its processes when the one that started them was killed",
        says=('name=f"VllmWorker-',),
    ),
    Use(
        "vllm.v1.utils",
        by="engine.lifeline",
        why="As for the engine core.",
        until="vLLM ends its processes when the one that started them was killed",
        says=('name=f"ApiServer_',),
    ),
    Use(
        "vllm.v1.engine.coordinator",
        by="engine.lifeline",
        why="As for the engine core.",
        until="vLLM ends its processes when the one that started them was killed",
        says=('name="VLLM_DP_Coordinator"',),
    ),
)
"""Checked in source trees alone: by name, they say nothing that a process could go wrong with."""
