"""What the tests of `vllm-mega bank` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.bank.samples import EMBEDDER, key
from vllm_mega.bank.layout import EmbedderInfo

Run = Callable[..., tuple[int, str, str]]


class InventedEmbedder:
    """Every text has the key of its length."""

    def __init__(self, name: str, *, trust_remote_code: bool = False) -> None:
        self.info = EMBEDDER if name == EMBEDDER.name else EmbedderInfo(name, f"of {name}", 8)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([key(len(text)) for text in texts])
