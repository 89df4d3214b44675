"""Every patch of vLLM, and nothing else.

A patch says what it replaces, why, and when it can go. It is applied once however often it is asked
for, and refuses loudly when the target is not what it was written for. All of them step aside unless
the engine was configured with vllm_mega's settings, so an engine without them is stock vLLM.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_mega.engine.settings import settings_of
from vllm_mega.errors import ConfigError, UpstreamError
from vllm_mega.mixture import NAME_PREFIX

logger = logging.getLogger(__name__)

_MARKER = "__vllm_mega_patch__"


@dataclass(frozen=True)
class Patch:
    """One replaced attribute of vLLM."""

    module: str
    target: str
    """Dotted name inside the module."""
    parameters: tuple[str, ...]
    """What the target's parameters must be; anything else means that upstream has changed."""
    why: str
    until: str
    make: Callable[[Any], Any]
    """From the original to its replacement."""

    def apply(self) -> None:
        """Replace the target, once.

        Raises:
            UpstreamError: the target is missing, or is not what this patch was written for.
        """
        owner_name, _, name = self.target.rpartition(".")
        try:
            owner = importlib.import_module(self.module)
            for part in owner_name.split(".") if owner_name else ():
                owner = getattr(owner, part)
            original = inspect.getattr_static(owner, name)
        except (ImportError, AttributeError) as error:
            raise UpstreamError(f"{self.module}:{self.target} is gone ({error}); {self.until}") from error
        function = original.__func__ if isinstance(original, classmethod) else original
        if hasattr(function, _MARKER):
            return
        found = tuple(inspect.signature(function).parameters)
        if found != self.parameters:
            raise UpstreamError(
                f"{self.module}:{self.target} takes {found}, expected {self.parameters}: "
                "this vllm_mega was written for vLLM 0.32"
            )
        replacement = self.make(function)
        setattr(replacement, _MARKER, self)
        setattr(owner, name, classmethod(replacement) if isinstance(original, classmethod) else replacement)


def _worker_manager(original: Any) -> Any:
    def make_manager(vllm_config: Any, device: Any, embedding_modules: Any) -> Any:
        if settings_of(vllm_config) is None:
            return original(vllm_config, device, embedding_modules)
        from vllm_mega.engine.worker import MegaWorkerLoRAManager

        return MegaWorkerLoRAManager(vllm_config, device, embedding_modules)

    return make_manager


def _door(original: Any) -> Any:
    def _validate_lora(self: Any, lora_request: Any) -> None:
        original(self, lora_request)
        if lora_request is None or not lora_request.lora_name.startswith(NAME_PREFIX):
            return
        from vllm_mega.engine.adapters import check_width

        if settings_of(self.vllm_config) is None:
            raise ConfigError("this engine was started without vllm_mega's settings; it cannot run mixtures")
        check_width(lora_request, self.lora_config.max_loras)

    return _validate_lora


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
            _configure(vllm_config)

    return check_and_update_config


def _cpu_config(original: Any) -> Any:
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        from vllm.config import CompilationMode

        compilation = vllm_config.compilation_config
        before = compilation.mode
        original(cls, vllm_config)
        if settings_of(vllm_config) is None:
            return
        _configure(vllm_config)
        if vllm_config.model_config.is_moe:
            raise ConfigError(f"the model is a mixture of experts: {NO_EXPERTS}")
        if before in (CompilationMode.VLLM_COMPILE, CompilationMode.DYNAMO_TRACE_ONCE):
            compilation.mode = CompilationMode.DYNAMO_TRACE_ONCE

    return check_and_update_config


def _short_message(original: Any) -> Any:
    def sanitize_message(message: str) -> str:
        return str(original(message[:MESSAGE]))

    return sanitize_message


def _configure(vllm_config: Any) -> None:
    """Make the configuration one that runs mixtures, or refuse it.

    Raises:
        ConfigError: something in it cannot be had with mixtures.
    """
    scheduler = vllm_config.scheduler_config.scheduler_cls
    if scheduler is None:
        vllm_config.scheduler_config.scheduler_cls = SCHEDULER
    elif scheduler != SCHEDULER:
        raise ConfigError(f"vllm_mega needs scheduler_cls {SCHEDULER!r}, found {scheduler!r}")
    if vllm_config.lora_config is None:
        raise ConfigError("vllm_mega needs LoRA: add --enable-lora (enable_lora: true)")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ConfigError("vllm_mega does not support pipeline parallelism: use tensor parallelism")
    if vllm_config.model_config.enable_sleep_mode:
        raise ConfigError("vllm_mega does not support sleep mode: slots would wake up empty")
    extension = vllm_config.parallel_config.worker_extension_cls
    if extension and extension != WORKER_EXTENSION:  # vLLM asks in every process, with what we have set
        logger.warning("worker_extension_cls is %s, so /mega/metrics has nothing to tell", extension)
    else:
        vllm_config.parallel_config.worker_extension_cls = WORKER_EXTENSION


# With LoRA on, select_unquantized_moe_backend (model_executor/layers/fused_moe/oracle/unquantized.py) takes
# the Triton experts before it asks for the platform, and none of the CPU experts supports LoRA. So layers are
# made that cannot run, and the first request ends the engine, whichever modules have adapters.
NO_EXPERTS = (
    "vLLM 0.32 cannot run LoRA beside experts on CPUs. Serve it with CUDA, or a bank of a dense base model"
)
SCHEDULER = "vllm_mega.engine.scheduler.MegaScheduler"
WORKER_EXTENSION = "vllm_mega.engine.worker.WorkerExtension"

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
        target="InputProcessor._validate_lora",
        parameters=("self", "lora_request"),
        why="A mixture wider than the slots must be refused at the door: inside the engine it is too late.",
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
)
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
