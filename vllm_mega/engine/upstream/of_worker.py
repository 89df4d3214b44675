"""What we rely on in vLLM where adapters are loaded and computed with. Data."""

from __future__ import annotations

from vllm_mega.contract.use import Use

_MANAGER = "vLLM lets a plugin choose the worker LoRA manager"
_START = "a LoRARequest can say from which token it acts"
GENERATORS = "vLLM winds the generators of a CPU back, too, or draws nothing for what it discards"

WORKER = (
    Use(
        "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager",
        by="engine.worker",
        why="MegaWorkerLoRAManager loads the adapters of mixtures, each once, and routes tokens to them.",
        until=_MANAGER,
        overrides={
            "create_lora_manager": "self model vllm_config",
            "set_active_adapters": "self requests mapping",
            "add_adapter": "self lora_request",
            "add_dummy_lora": "self lora_request rank",
            "list_adapters": "self",
        },
        calls={
            "__init__": "vllm_config device embedding_modules lora_model_cls",
            "_load_adapter": "lora_request",
        },
        reads="_adapter_manager _manager_cls lora_config",
        adds="_activate _component_id _component_ids _counts _in_step _is_missing _load _loader "
        "_next_id _oldest_outside_step _packed _read _shapes _weighted_ids drop held pin residency",
    ),
    Use(
        "vllm.lora.worker_manager",
        by="engine.worker",
        why="An adapter is read by its folder's name, on the CPU, in the type of the model.",
        until=_MANAGER,
        says=("lora_path = get_adapter_absolute_path(lora_request.lora_path)", 'device="cpu"'),
    ),
    Use(
        "vllm.lora.model_manager:LRUCacheLoRAModelManager",
        by="engine.manager engine.worker",
        why="MegaLoRAModelManager gives linear layers slots that hold packed adapters.",
        until=_MANAGER,
        overrides={
            "_init_punica_wrapper": "self max_num_batched_tokens vllm_config",
            "_get_punica_wrapper": "self module_name",
            "_create_lora_modules": "self",
            "_match_target_modules": "self module_name",
            "activate_adapter": "self lora_id",
            "_deactivate_adapter": "self lora_id",
            "remove_all_adapters": "self",
        },
        calls={
            "get_adapter": "adapter_id",
            "list_adapters": "",
            "remove_adapter": "adapter_id",
        },
        reads="__len__ _active_adapters _registered_adapters capacity device lora_config lora_index_to_id "
        "lora_slots max_num_batched_tokens max_num_seqs model modules packed_modules packed_modules_mapping "
        "supported_lora_modules supports_mm",
        adds="_check_layers _check_matched _has_slot _routed _runtime_name _smallest_stacks _wanted "
        "add_packed erase_adapters kernels pack route slots",
    ),
    Use(
        "vllm.lora.model_manager",
        by="engine.manager",
        why="Slots and the largest rank are read where a layer is made: then they are one and 1.",
        until=_MANAGER,
        says=(
            "return self.lora_config.max_loras",
            "elif not self._match_target_modules(module_name) and not is_classifier_head",
        ),
    ),
    Use(
        "vllm.lora.utils",
        by="engine.manager",
        why="What vLLM calls the modules of a checkpoint.",
        until=_MANAGER,
        calls={"parse_fine_tuned_lora_name": "name weights_mapper"},
    ),
    Use(
        "vllm.model_executor.models.utils:WeightsMapper",
        by="engine.manager",
        why="What vLLM calls the modules of a checkpoint.",
        until=_MANAGER,
        calls={"get_rename_mapper": ""},
    ),
    Use(
        "vllm.utils.cache:LRUCache",
        by="engine.manager engine.worker",
        why="Host memory and slots are caches of vLLM's: who is young, who is pinned, who goes.",
        until=_MANAGER,
        calls={"pin": "key", "touch": "key", "remove_oldest": ""},
        reads="cache order pinned_items",
    ),
    Use(
        "vllm.lora.layers:LoRAMapping",
        by="engine.manager engine.worker",
        why="Which adapter every token of a step has.",
        until=_MANAGER,
        reads="index_mapping",
    ),
    Use(
        "vllm.lora.layers.base_linear:BaseLinearLayerWithLoRA",
        by="engine.manager",
        why="The layers that get slots: their shapes, and how an adapter is cut for them.",
        until=_MANAGER,
        calls={
            "set_mapping": "punica_wrapper",
            "slice_lora_a": "lora_a",
            "slice_lora_b": "lora_b",
        },
        reads="lora_a_stacked lora_b_stacked tp_size",
    ),
    Use(
        "vllm.lora.layers.base_linear",
        by="engine.slots.cpu engine.slots.cuda",
        why="Where layers hand over to what `set_mapping` gave them.",
        until=_MANAGER,
        says=("self.punica_wrapper.add_lora_linear(",),
    ),
    Use(
        "vllm.lora.layers.column_parallel_linear:MergedColumnParallelLinearWithLoRA",
        by="engine.manager",
        why="A layer of several slices for which an adapter has fewer matrices.",
        until=_MANAGER,
        calls={"expand_packed_lora": "lora_a lora_b"},
        reads="n_slices",
    ),
    Use(
        "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase",
        by="engine.manager engine.slots.cpu engine.slots.cuda",
        why="LayerMixture and GpuLayerMixture stand in for it: they add the mixtures of a step.",
        until="the stock CPU LoRA path is right for tokens without an adapter, and takes several per token",
        overrides={
            "add_lora_linear": "self y x lora_a_stacked lora_b_stacked scale output_slices * buffer= **kwargs"
        },
    ),
    Use(
        "vllm.lora.lora_model:LoRAModel",
        by="engine.manager engine.worker",
        why="What vLLM has read of an adapter, its tensors not pinned: what is packed of them is.",
        until=_MANAGER,
        overrides={
            "from_lora_tensors": "cls lora_model_id tensors peft_helper device= dtype= model_vocab_size= "
            "weights_mapper= skip_prefixes="
        },
        reads="loras",
    ),
    Use(
        "vllm.lora.lora_weights:LoRALayerWeights",
        by="engine.manager engine.worker",
        why="What vLLM has read of an adapter, for one layer.",
        until=_MANAGER,
        reads="lora_a lora_b scaling",
    ),
    Use(
        "vllm.model_executor.layers.linear:LinearBase",
        by="engine.manager",
        why="A layer whose weights went into a quantized kernel cannot have LoRA.",
        until="vLLM refuses such a layer itself",
    ),
    Use(
        "vllm.model_executor.models.interfaces:SupportsLoRA",
        by="engine.manager",
        why="Embeddings get no slots.",
        reads="embedding_modules",
    ),
    Use(
        "vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin",
        by="engine.worker",
        why="Where both runners keep the manager, whose counts are asked for.",
        until=_MANAGER,
        reads="lora_manager",
    ),
    Use(
        "vllm.v1.worker.gpu_model_runner",
        by="engine.upstream.runner_patches",
        why="The first runner's state of every request.",
        until=_START,
        says=("self.requests: dict[str, CachedRequestState]",),
    ),
    Use(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
        by="engine.runners engine.upstream.runner_patches",
        why="Whose sampled tokens the first runner throws away.",
        until=GENERATORS,
        reads="device discard_request_mask input_batch",
    ),
    Use(
        "vllm.v1.utils:CpuGpuBuffer",
        by="engine.runners",
        why="Whose sampled tokens the first runner throws away, as numpy sees it.",
        until=GENERATORS,
        reads="np",
    ),
    Use(
        "vllm.v1.worker.gpu_input_batch",
        by="engine.runners",
        why="The sampler is given the very generators that the batch has.",
        until=GENERATORS,
        says=("generators=self.generators,",),
    ),
    Use(
        "vllm.v1.worker.gpu_input_batch:InputBatch",
        by="engine.runners",
        why="StartedBatch stands in for the first runner's batch, and asks it who is past its start.",
        until=_START,
        overrides={"make_lora_inputs": "self num_scheduled_tokens num_sampled_tokens"},
        reads="generators num_computed_tokens_cpu num_prompt_tokens num_reqs req_ids request_lora_mapping",
    ),
    Use(
        "vllm.v1.worker.gpu_input_batch:CachedRequestState",
        by="engine.runners",
        why="What the first runner knows of a request.",
        until=_START,
        reads="lora_request num_prompt_tokens sampling_params",
    ),
    Use(
        "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
        by="engine.runners",
        why="The second runner's state of LoRA and of requests.",
        until=_START,
        reads="lora_state req_states",
    ),
    Use(
        "vllm.v1.worker.gpu.lora_utils:LoraState",
        by="engine.runners",
        why="The second runner's LoRA state gets the starts of its requests.",
        until=_START,
        reads="lora_ids",
        adds="computed starts",
    ),
    Use(
        "vllm.v1.worker.gpu.states:RequestState",
        by="engine.runners",
        why="Where the second runner counts the tokens of a request, written in place.",
        until=_START,
        reads="num_computed_tokens_np req_id_to_index",
    ),
    Use(
        "vllm.v1.core.sched.output:NewRequestData",
        by="engine.runners",
        why="What the second runner hears of a new request.",
        until=_START,
        reads="lora_request prompt_len req_id sampling_params",
    ),
    Use(
        "vllm.v1.worker.worker_base:WorkerBase",
        by="engine.worker",
        why="WorkerExtension is added to the class of the worker.",
        reads="model_runner",
        adds="mega_drop mega_held mega_residency",
    ),
    Use(
        "vllm.v1.worker.worker_base",
        by="engine.worker",
        why="WorkerExtension is added to the class of the worker.",
        says=("parallel_config.worker_extension_cls",),
    ),
)
"""In the processes that run the model."""
