"""The head of a model: from hidden states to logits, and their gradient back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vllm_mega.models.architectures import head_rule


@dataclass(frozen=True)
class Head:
    """logits = softcap * tanh(scale * (hidden W^T + bias) / softcap), computed in the type of `weight`."""

    weight: Tensor
    """[V, D]"""
    bias: Tensor | None = None
    """[V]"""
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a causal language model of transformers, detached."""
        output = model.get_output_embeddings()
        bias = getattr(output, "bias", None)
        scale, softcap = head_rule(model.config.to_dict())
        return cls(output.weight.detach(), None if bias is None else bias.detach(), scale, softcap)

    def rows(self, tokens: Tensor) -> Head:
        """The head of some tokens, int64 [N], alone: a copy, whose logits are those of `tokens` in order."""
        return self._part(tokens)

    def block(self, start: int, stop: int) -> Head:
        """The head of the tokens from `start` to before `stop` alone: a view."""
        return self._part(slice(start, stop))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self._shaped(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def at(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """The logit of one token each: hidden [L, D], tokens int64 [L] -> [L]."""
        raw = (hidden * self.weight[tokens]).sum(-1, dtype=torch.float32)
        return self._shaped(raw if self.bias is None else raw + self.bias[tokens])

    def _part(self, tokens: Tensor | slice) -> Head:
        bias = None if self.bias is None else self.bias[tokens]
        return Head(self.weight[tokens], bias, self.scale, self.softcap)

    def _shaped(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def gradient(self, dlogits: Tensor, logits: Tensor) -> Tensor:
        """The gradient of hidden states, [..., D], from that of `logits`, [..., V]."""
        if self.softcap is not None:
            dlogits = dlogits * (1.0 - (logits / self.softcap) ** 2)
        if self.scale != 1.0:
            dlogits = dlogits * self.scale
        return dlogits.to(self.weight.dtype) @ self.weight
