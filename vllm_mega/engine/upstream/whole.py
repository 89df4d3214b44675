"""The whole contract, with the patches as parts of it. Data."""

from __future__ import annotations

from vllm_mega.contract.of_transformers import ARCHITECTURES, TRANSFORMERS
from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream.of_configuration import CONFIGURATION
from vllm_mega.engine.upstream.of_scheduler import SCHEDULER
from vllm_mega.engine.upstream.of_server import SERVER
from vllm_mega.engine.upstream.of_starting import BATCH, OFFLINE, OPTIONS, PROCESSES, SERVE
from vllm_mega.engine.upstream.of_worker import WORKER
from vllm_mega.engine.upstream.patch import Patch
from vllm_mega.engine.upstream.patches import CUDA_PATCH, PATCHES, SERVER_PATCHES
from vllm_mega.engine.upstream.runner_patches import RUNNER_PATCHES


def _use(patch: Patch) -> Use:
    owner, _, name = patch.target.rpartition(".")
    return Use(
        f"{patch.module}:{owner}" if owner else patch.module,
        by="engine.upstream",
        why=patch.why,
        until=patch.until,
        patches={name: " ".join(patch.parameters)},
    )


PATCHED = tuple(map(_use, (*PATCHES, CUDA_PATCH, *RUNNER_PATCHES, *SERVER_PATCHES)))
AT_START = {
    "configuration": CONFIGURATION,
    "scheduler": SCHEDULER,
    "worker": WORKER,
    "serve": SERVE,
    "server": SERVER,
    "batch": BATCH,
    "offline": OFFLINE,
}
"""What is checked where a part of vLLM starts."""
VLLM = (*PATCHED, *(use for uses in AT_START.values() for use in uses), *OPTIONS, *PROCESSES)
CONTRACT = {"vllm": VLLM, "transformers": (*TRANSFORMERS, *ARCHITECTURES)}
"""By package."""
