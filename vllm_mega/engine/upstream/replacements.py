"""What stands in for vLLM's functions: each is made from the original, which it calls.

All of them step aside unless the engine was configured with vllm_mega's settings, so an engine without them
is stock vLLM.
"""

from __future__ import annotations

import copy
from typing import Any

from vllm_mega.contract.checking import require
from vllm_mega.engine.configuration import NO_EXPERTS, configure
from vllm_mega.engine.letting_go import CALLS
from vllm_mega.engine.private import private_keys
from vllm_mega.engine.settings import SETTINGS_KEY, settings_of
from vllm_mega.engine.start import block_keys, carries_mixture
from vllm_mega.engine.upstream.of_worker import WORKER
from vllm_mega.engine.upstream.runner_patches import RUNNER_PATCHES
from vllm_mega.errors import ConfigError
from vllm_mega.mixture import NAME_PREFIX

MESSAGE = 1000
"""Characters of an error that reach a client."""


def worker_manager(original: Any) -> Any:
    def make_manager(vllm_config: Any, device: Any, embedding_modules: Any) -> Any:
        if settings_of(vllm_config) is None:
            return original(vllm_config, device, embedding_modules)
        for patch in RUNNER_PATCHES:
            patch.apply()
        require(WORKER)
        from vllm_mega.engine.worker import MegaWorkerLoRAManager

        return MegaWorkerLoRAManager(vllm_config, device, embedding_modules)

    return make_manager


def door(original: Any) -> Any:
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


def intake(original: Any) -> Any:
    def preprocess_add_request(self: Any, request: Any) -> Any:
        prepared = original(self, request)
        if settings_of(self.vllm_config) is not None:
            self.scheduler.expect(request.request_id, request.lora_request)
        return prepared

    return preprocess_add_request


def engine_calls(original: Any) -> Any:
    def collective_rpc(
        self: Any, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None
    ) -> Any:
        if method not in CALLS or settings_of(self.vllm_config) is None:
            return original(self, method, timeout, args, kwargs)
        return CALLS[method](self, *args)

    return collective_rpc


def lora_stats(original: Any) -> Any:
    def _request_update(self: Any, req_id: str, lora_name: str | None, waiting: bool, running: bool) -> None:
        if lora_name is not None and lora_name.startswith(NAME_PREFIX):
            lora_name = "mega"
        original(self, req_id, lora_name, waiting, running)

    return _request_update


def cuda_config(original: Any) -> Any:
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        original(cls, vllm_config)
        if settings_of(vllm_config) is not None:
            configure(vllm_config)

    return check_and_update_config


def cpu_config(original: Any) -> Any:
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


def compile_hash(original: Any) -> Any:
    def compute_hash(self: Any, include_version: bool = True) -> Any:
        if settings_of(self) is None:
            return original(self, include_version)
        shaping = copy.copy(self)
        # What our settings say shapes no graph; that they are there does.
        shaping.additional_config = {**self.additional_config, SETTINGS_KEY: True}
        return original(shaping, include_version)

    return compute_hash


def block_hashes(original: Any) -> Any:
    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[Any, int]:
        keys, mm_index = original(request, start_token_idx, end_token_idx, start_mm_idx)
        keys = block_keys(keys, request, start_token_idx, end_token_idx)
        return private_keys(keys, request, start_token_idx, end_token_idx), mm_index

    return generate_block_hash_extra_keys


def short_message(original: Any) -> Any:
    def sanitize_message(message: str) -> str:
        return str(original(message[:MESSAGE]))

    return sanitize_message
