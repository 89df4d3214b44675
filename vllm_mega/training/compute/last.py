"""The MLP of the last layer, run on the tokens that are labelled alone.

Behind it nothing but the head follows, and the head is asked about labelled tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mega.models.architectures import Config, architecture, experts


class LastMlp(nn.Module):
    """Stands for an MLP."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._tokens: Tensor | None = None

    @contextmanager
    def only(self, tokens: Tensor) -> Iterator[None]:
        """While the context lasts, the MLP meets the tokens at `tokens`, int64 [L]; to others it adds 0."""
        self._tokens = tokens
        try:
            yield
        finally:
            self._tokens = None

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, D] -> [1, T, D]."""
        if self._tokens is None:
            whole: Tensor = self.inner(x)
            return whole
        some = self.inner(x[:, self._tokens])
        return torch.zeros_like(x).index_copy(1, self._tokens, some)


def last_mlp(config: Config, layers: nn.ModuleList) -> LastMlp | None:
    """Take the place of the last layer's MLP; None: it is no module of its own, or has experts."""
    layer: Any = layers[-1]
    names = architecture(config).mlp
    inner = {name: child for name, child in layer.named_children() if _holds(child, names)}
    if experts(config) or len(inner) != 1:
        return None
    ((name, child),) = inner.items()
    found = LastMlp(child)
    setattr(layer, name, found)
    return found


def _holds(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether `names` are all that `module` holds, beside what has no weights."""
    weights = {name for name, child in module.named_children() if any(True for _ in child.parameters())}
    return weights == set(names)
