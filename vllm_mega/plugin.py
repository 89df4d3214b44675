"""What vLLM finds by entry point; no logic."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """`vllm.general_plugins`: called in every process, maybe twice."""
    from vllm_mega.engine import lifeline
    from vllm_mega.engine.upstream.applying import apply

    lifeline.end_with_parent()
    apply()


def endpoints() -> Any:
    """`vllm.endpoint_plugins`: called in the API server when VLLM_PLUGINS names us."""
    from vllm_mega.http.endpoints import MegaEndpoints

    return MegaEndpoints()
