"""Adapters that are changed a little, and what the error of each must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bank.samples import DOWN, PREFIX, SHAPES, UP, tensors, write_adapter
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.errors import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UP_A, UP_B = f"{PREFIX}{UP}.lora_A.weight", f"{PREFIX}{UP}.lora_B.weight"
DOWN_A, DOWN_B = f"{PREFIX}{DOWN}.lora_A.weight", f"{PREFIX}{DOWN}.lora_B.weight"


def refused(folder: Path, file: str, *, expected: str, found: str, **options: Any) -> AdapterError:
    """The error that `check_adapter` raises, which says all that it must."""
    with pytest.raises(AdapterError) as caught:
        check_adapter(folder, SHAPES, **options)
    error = caught.value
    assert error.path == (folder / file if file else folder)
    assert expected in error.expected
    assert found in error.found
    assert error.change
    assert all(part in str(error) for part in (str(error.path), error.expected, error.found, error.change))
    return error


def with_tensors(folder: Path, **changes: np.ndarray | None) -> Path:
    """An adapter whose tensors differ: new ones, changed ones, None for missing ones."""
    values = {**tensors(), **changes}
    return write_adapter(folder, values={name: value for name, value in values.items() if value is not None})
