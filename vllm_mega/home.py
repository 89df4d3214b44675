"""Where prepared models and compiled kernels lie."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """VLLM_MEGA_HOME, or vllm_mega in the user's cache directory."""
    if asked := os.environ.get("VLLM_MEGA_HOME"):
        return Path(asked).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vllm_mega"
