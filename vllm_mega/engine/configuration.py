"""What an engine's configuration must be to run mixtures."""

from __future__ import annotations

import logging
from typing import Any

from vllm_mega.errors import ConfigError

logger = logging.getLogger(__name__)

# With LoRA on, select_unquantized_moe_backend (model_executor/layers/fused_moe/oracle/unquantized.py) takes
# the Triton experts before it asks for the platform, and none of the CPU experts supports LoRA. So layers are
# made that cannot run, and the first request ends the engine, whichever modules have adapters.
NO_EXPERTS = (
    "vLLM 0.32 cannot run LoRA beside experts on CPUs. Serve it with CUDA, or a bank of a dense base model"
)
BLIND_CONNECTORS = frozenset(
    ("ExampleConnector", "LMCacheConnectorV1", "LMCacheMPConnector", "HF3FSKVConnector")
)
"""They know KV by its tokens alone, so they would give a request what another's memories have computed."""
SCHEDULER = "vllm_mega.engine.scheduler.MegaScheduler"
WORKER_EXTENSION = "vllm_mega.engine.worker.WorkerExtension"


def configure(vllm_config: Any) -> None:
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
    if vllm_config.parallel_config.prefill_context_parallel_size > 1:
        raise ConfigError("vllm_mega does not support prefill context parallelism: use tensor parallelism")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ConfigError("vllm_mega does not support pipeline parallelism: use tensor parallelism")
    if vllm_config.model_config.enable_sleep_mode:
        raise ConfigError("vllm_mega does not support sleep mode: slots would wake up empty")
    _check_computing(vllm_config)
    _check_connectors(vllm_config.kv_transfer_config)
    extension = vllm_config.parallel_config.worker_extension_cls
    if extension and extension != WORKER_EXTENSION:  # vLLM asks in every process, with what we have set
        logger.warning("worker_extension_cls is %s, so /mega/metrics has nothing to tell", extension)
    else:
        vllm_config.parallel_config.worker_extension_cls = WORKER_EXTENSION


def _check_computing(vllm_config: Any) -> None:
    """Refuse ways to compute a step that our kernels do not know.

    Raises:
        ConfigError: one of them is switched on.
    """
    from vllm import envs

    wanted, lora = vllm_config.model_config.dtype, vllm_config.lora_config
    if lora.lora_dtype not in ("auto", None, wanted, str(wanted).removeprefix("torch.")):
        raise ConfigError(
            f"lora_dtype is {lora.lora_dtype} and the model computes in {wanted}: adapters are computed in "
            "the model's type, so leave --lora-dtype out, or give --dtype the same"
        )
    if lora.specialize_active_lora:
        raise ConfigError(
            "specialize_active_lora is not supported with mixtures, whose launches are the same for every "
            "number of adapters: leave it off"
        )
    if vllm_config.parallel_config.use_ubatching:
        raise ConfigError(
            "dual batch overlap is not supported with mixtures, whose routing is that of the whole step: "
            "leave enable_dbo and ubatch_size off"
        )
    for name in ("VLLM_BATCH_INVARIANT", "VLLM_LORA_ENABLE_DUAL_STREAM"):
        if getattr(envs, name):
            raise ConfigError(f"{name} is set, which the kernels of mixtures cannot keep: unset it")


def _check_connectors(transfer: Any) -> None:
    if transfer is None:
        return
    nested = (transfer.kv_connector_extra_config or {}).get("connectors", [])
    blind = BLIND_CONNECTORS.intersection(
        (transfer.kv_connector, *(one.get("kv_connector") for one in nested))
    )
    if blind:
        raise ConfigError(
            f"{min(blind)} finds KV by its tokens alone, and would serve one memory's to another: "
            "use one that asks for vLLM's block hashes (OffloadingConnector, SimpleCPUOffloadConnector)"
        )
