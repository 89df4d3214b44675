"""What the parts of `loadtests.gpu` are told."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from loadtests.gpu_time import Clock


class Options(NamedTuple):
    """From the command line."""

    output: Path
    """Of the report; what parts write beside it begins with its name."""
    quick: bool
    source: Path | None
    """Folder that holds vLLM's package; None: the installed one."""
    clock: Clock
    """Of the part, where it is `kernels` or `stock`."""
    device: str = "cuda"
