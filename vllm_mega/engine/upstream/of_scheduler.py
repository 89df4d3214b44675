"""What we rely on in vLLM where it schedules. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream.of_releases import ENDED_REQUESTS

_MEMORY = "vLLM has a way to carry mixtures"
_FORGETTING = "vLLM forgets the blocks and the copies of an adapter that is unloaded"

_SCHEDULER = "schedulers have a hook that says whether a request may run now"

SCHEDULER = (
    Use(
        "vllm.v1.core.sched.async_scheduler:AsyncScheduler",
        by="engine.scheduler engine.upstream.releases",
        why="MegaScheduler runs a request only when all its adapters fit the slots; upstream counts one.",
        until=_SCHEDULER,
        overrides={
            "add_request": "self request",
            "_handle_blocked_waiting_request": "self request",
            "shutdown": "self",
        },
        calls={"reset_connector_cache": ""},
        reads="_free_request connector grammar_compile_error_reqs kv_cache_config kv_cache_manager "
        "kv_event_publisher lora_config max_num_running_reqs requests running schedule vllm_config",
        adds="_admission _announcer _checks _has_adapters _held _holder _ids _joined _live_mixtures _needs "
        "_note_joined _prefix _traces _used expect held let_go",
    ),
    Use(
        "vllm.v1.core.sched.scheduler",
        by="engine.scheduler",
        why="Who waits is asked before it is tried.",
        until=_SCHEDULER,
        says=("self._handle_blocked_waiting_request(",),
    ),
    *ENDED_REQUESTS,
    Use(
        "vllm.v1.core.sched.output:SchedulerOutput",
        by="engine.scheduler engine.runners",
        why="What a step is: the second runner learns of new requests by it.",
        until=_SCHEDULER,
        reads="scheduled_new_reqs",
    ),
    Use(
        "vllm.v1.request:Request",
        by="engine.adapters engine.parts engine.scheduler engine.start",
        why="What the scheduler knows of a request: its LoRA, its prompt, its parameters, its blocks.",
        until=_SCHEDULER,
        reads="block_hashes lora_request num_prompt_tokens request_id sampling_params",
    ),
    Use(
        "vllm.v1.engine:EngineCoreRequest",
        by="engine.adapters engine.start engine.upstream.replacements",
        why="What comes through the door, before the engine has it.",
        until="vLLM lets a plugin validate LoRA requests",
        reads="lora_request prompt_embeds prompt_token_ids request_id resumable sampling_params",
    ),
    Use(
        "vllm.v1.engine.core:EngineCore",
        by="engine.letting_go engine.upstream.replacements http.forgetting http.metrics",
        why="The scheduler is told of a request before it may schedule it, and of what is forgotten; workers "
        "tell their counts.",
        until="the scheduler is told of a request when it arrives",
        calls={"collective_rpc": "method timeout args kwargs"},
        reads="model_executor scheduler",
    ),
    Use(
        "vllm.v1.executor.abstract:Executor",
        by="engine.letting_go",
        why="The workers of an engine let go of adapters.",
        until=_FORGETTING,
        calls={"collective_rpc": "method args="},
    ),
    Use(
        "vllm.v1.core.kv_cache_manager:KVCacheManager",
        by="engine.scheduler",
        why="Where the blocks of the prefix cache are.",
        until=_FORGETTING,
        reads="block_pool",
    ),
    Use(
        "vllm.v1.kv_cache_interface:KVCacheConfig",
        by="engine.scheduler",
        why="The layers of a group have blocks of their own.",
        until=_FORGETTING,
        reads="kv_cache_groups",
    ),
    Use(
        "vllm.v1.core.block_pool:BlockPool",
        by="engine.prefix engine.scheduler",
        why="Blocks that have something of a forgotten memory are taken out of the prefix cache.",
        until=_FORGETTING,
        calls={"evict_blocks": "block_ids"},
        reads="cached_block_hash_to_block hash_block_size num_gpu_blocks",
    ),
    Use(
        "vllm.v1.core.block_pool:BlockHashToBlockMap",
        by="engine.prefix",
        why="A block is found by its hash.",
        until=_FORGETTING,
        calls={"get_one_block": "key"},
    ),
    Use(
        "vllm.v1.core.kv_cache_utils:KVCacheBlock",
        by="engine.prefix",
        why="A block is taken out by its number.",
        until=_FORGETTING,
        reads="block_id",
    ),
    Use(
        "vllm.v1.core.kv_cache_utils",
        by="engine.prefix",
        why="A block is found by its hash, which stands for all that went before, whatever a block's size.",
        until=_FORGETTING,
        calls={"make_block_hash_with_group_id": "block_hash group_id"},
        says=("return self.block_hashes[(idx + 1) * self.scale_factor - 1]",),
    ),
    Use(
        "vllm.v1.engine.input_processor:InputProcessor",
        by="engine.upstream.replacements http.beforehand",
        why="The door knows the configuration; a request is tried before memory costs anything.",
        until="vLLM lets a plugin validate LoRA requests",
        calls={"process_inputs": "request_id prompt params supported_tasks"},
        reads="lora_config vllm_config",
    ),
    Use(
        "vllm.sampling_params:SamplingParams",
        by="engine.parts engine.start offline offline_chat hook.routed",
        why="A start travels to the workers in `extra_args`; so does what of memories a prompt has.",
        until="a LoRARequest can say from which token it acts",
        reads="extra_args",
    ),
    Use(
        "vllm.lora.request",
        by="engine.adapters engine.scheduler engine.worker",
        why="A mixture travels as a LoRARequest, made by position.",
        until=_MEMORY,
        says=("    lora_name: str\n    lora_int_id: int\n    lora_path: str",),
    ),
    Use(
        "vllm.lora.request:LoRARequest",
        by="engine.adapters engine.parts engine.scheduler engine.start engine.upstream.replacements "
        "engine.worker offline "
        "http.completions http.endpoints http.handlers http.measures hook.hook offline_chat "
        "hook.routed",
        why="A mixture travels as a LoRARequest, whose name and path say what it is.",
        until=_MEMORY,
        overrides={"__eq__": "self value", "__hash__": "self"},
        reads="load_inplace lora_int_id lora_name lora_path",
        adds="mixture",
    ),
    Use(
        "vllm.v1.core.kv_cache_utils",
        by="engine.start",
        why="Keys of a block are tagged, so those of a LoRA can be taken out.",
        until="a LoRARequest can say from which token it acts",
        says=('("lora", ',),
    ),
    Use(
        "vllm.distributed.kv_events:BlockStored",
        by="engine.events",
        why="Events of blocks before start must not name the mixture.",
        until="a LoRARequest can say from which token it acts",
        reads="block_hashes block_size extra_keys lora_id lora_name parent_block_hash token_ids",
    ),
    Use(
        "vllm.distributed.kv_events:KVEventBatch",
        by="engine.events",
        why="Events of blocks before start must not name the mixture.",
        until="a LoRARequest can say from which token it acts",
        reads="events",
    ),
    Use(
        "vllm.distributed.kv_events:EventPublisher",
        by="engine.events",
        why="ToldApart stands in for the scheduler's publisher.",
        until="a LoRARequest can say from which token it acts",
        overrides={"publish": "self events"},
    ),
)
"""In the process that schedules."""
