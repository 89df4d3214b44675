"""Whether base model and embedder are on this machine."""

from __future__ import annotations

from vllm_mega.doctor.finding import Finding
from vllm_mega.models import DEFAULT_EMBEDDER, DEFAULT_MODEL, find_here
from vllm_mega.models.recipes import MINILM, SMOLLM2, wheel_folder

_WHEELS = {DEFAULT_MODEL: SMOLLM2, DEFAULT_EMBEDDER: MINILM}


def model(role: str, name: str) -> Finding:
    """Whether the model `name`, which is the `role`, is here, or can be prepared.

    Raises:
        ModelError: it is not, and cannot be: a path that leads nowhere, a package that is missing.
    """
    if folder := find_here(name):
        return Finding(role, "ok", f"{name} in {folder}")
    if name in _WHEELS:
        wheel_folder(*_WHEELS[name])
        return Finding(
            role, "warning", f"{name} is not prepared", "vllm-mega model; else the first server does it"
        )
    change = f"vllm-mega model {name}" if role == "base model" else f"vllm-mega model --embedder {name}"
    return Finding(
        role, "warning", f"{name} is not on this machine", f"{change}; else the first server downloads it"
    )
