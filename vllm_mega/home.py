"""Where prepared models and compiled kernels lie, and what a server makes while it runs."""

from __future__ import annotations

import os
from pathlib import Path

RUN_FOLDER = "VLLM_MEGA_RUN_FOLDER"
"""Environment variable: the folder of the temporary files of one server, which goes with it."""


def home() -> Path:
    """VLLM_MEGA_HOME, or vllm_mega in the user's cache directory."""
    if asked := os.environ.get("VLLM_MEGA_HOME"):
        return Path(asked).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vllm_mega"
