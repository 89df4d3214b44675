"""What stands in for the gate behind a reader that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vllm_mega.bank.catalog.records import MemoryName, Row


class Index:
    """What the gate would hold."""

    def __init__(self) -> None:
        self.keys: dict[MemoryName, npt.NDArray[np.float32]] = {}

    def put(self, rows: Sequence[Row], keys: npt.NDArray[np.float32]) -> None:
        assert keys.shape == (len(rows), 8)
        assert keys.dtype == np.float32
        self.keys.update(zip((row.name for row in rows), keys, strict=True))

    def drop(self, names: Sequence[MemoryName]) -> None:
        for gone in names:
            self.keys.pop(gone, None)
