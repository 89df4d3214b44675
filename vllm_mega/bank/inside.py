"""Whether a path is in the bank, once links are followed."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_mega.errors import BankFormatError


def require_inside(root: Path, path: Path) -> None:
    """Refuse a path that links lead out of the bank.

    Raises:
        BankFormatError: `path` is outside `root` once links are followed.
    """
    real = os.path.realpath(path)
    if not real.startswith(os.path.realpath(root) + os.sep):
        raise BankFormatError(f"{path} leads out of the bank, to {real}: replace the link by the file")
