"""Applies patches and checks the contract, in the processes that each is for."""

from __future__ import annotations

from vllm_mega.contract.checking import require
from vllm_mega.engine.upstream.of_configuration import CONFIGURATION
from vllm_mega.engine.upstream.patches import CUDA_PATCH, PATCHES, SERVER_PATCHES


def apply() -> None:
    """Apply every patch; any process may call it, any number of times.

    Raises:
        UpstreamError: vLLM is not the one that this was written for.
    """
    require(CONFIGURATION)
    from vllm.platforms import current_platform

    for patch in (*PATCHES, CUDA_PATCH) if current_platform.is_cuda() else PATCHES:
        patch.apply()


def apply_to_server() -> None:
    """Apply what only concerns those who answer clients; as `apply`."""
    for patch in SERVER_PATCHES:
        patch.apply()
