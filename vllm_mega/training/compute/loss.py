"""Cross entropy over the tokens that matter, its gradient computed on the way.

The vocabulary is the largest matrix of a small model. A memory's answers need few of its tokens: those that
the answers have, and those that the model would rather say there. The others keep a probability next to
nothing, so they are left out of the loss. But what is left out is not pushed down, and may rise: so training
looks again for tokens that have come near a label (`scan`), and no memory counts as learnt before all tokens
were asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_mega.training.compute.head import Head
from vllm_mega.training.recipe.recipe import LossRules

ROWS = 1024
"""Logits exist for so many labels at once ..."""
COLUMNS = 8192
"""... and, where all tokens are looked through, for so many tokens."""


class _WeightedLoss(torch.autograd.Function):
    """Hidden [L, D], a head, labels [L], weights [L] -> weighted loss, log-probabilities [L]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Head, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad = torch.empty_like(hidden)
        logp = hidden.new_empty(len(labels), dtype=torch.float32)
        for rows in torch.arange(len(labels), device=hidden.device).split(ROWS):
            logits = head.logits(hidden[rows])
            p = logits.float().log_softmax(-1)
            column = labels[rows, None]
            logp[rows] = p.gather(1, column)[:, 0]
            p = p.exp_().scatter_add_(1, column, p.new_full(column.shape, -1.0)).mul_(weights[rows, None])
            grad[rows] = head.gradient(p, logits)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(logp)
        return -(logp * weights).sum(), logp

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


class Candidates:
    """The part of the head that training looks at."""

    def __init__(self, head: Head, always: Tensor, rules: LossRules) -> None:
        """`always`: tokens that take part from the start, int64."""
        self.head = head
        self._rules = rules
        self._place = torch.full((len(head.weight),), -1, device=head.weight.device)
        self._tokens = always.new_empty(0)
        self.add(always)

    @torch.no_grad()
    def discover(self, hidden: Tensor) -> None:
        """The likeliest tokens at `hidden` [L, D] take part from now on."""
        likely = min(self._rules.likely, len(self._place))
        for rows in hidden.split(ROWS):
            self.add(self.head.logits(rows).topk(likely, dim=-1).indices.flatten())

    @torch.no_grad()
    def scan(self, hidden: Tensor, labels: Tensor) -> int:
        """For each label [L], the likeliest token that was left out takes part if it has come near.

        Returns how many have. `hidden` [L, D]. One product with the whole head, looked at block by block.
        """
        best = self.head.at(hidden, labels).float() - self._rules.near
        tokens = torch.full_like(labels, -1)
        for start in range(0, len(self._place), COLUMNS):
            block = self.head.block(start, start + COLUMNS).logits(hidden)
            inside = (self._tokens >= start) & (self._tokens < start + COLUMNS)
            block.index_fill_(1, self._tokens[inside] - start, -torch.inf)
            nearer = (block.amax(-1) > best).nonzero().flatten()
            if len(nearer):
                most, where = block[nearer].max(-1)
                best[nearer], tokens[nearer] = most.float(), where + start
        before = len(self)
        self.add(tokens[tokens >= 0])
        return len(self) - before

    def loss(self, hidden: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of weighted losses, and the log-probabilities of `labels`, float32 [L]."""
        found: tuple[Tensor, Tensor] = _WeightedLoss.apply(hidden, self._rows, self._place[labels], weights)
        return found

    @torch.no_grad()
    def exact(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities of `labels` among all tokens: float32 [L]."""
        parts = [
            self.head.logits(some).float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            for some, wanted in zip(hidden.split(ROWS), labels.split(ROWS), strict=True)
        ]
        return torch.cat(parts)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, tokens: Tensor) -> None:
        """`tokens`, int64, take part from now on."""
        new = tokens[self._place[tokens] < 0].unique()
        if len(new):
            self._place[new] = torch.arange(len(new), device=new.device) + len(self._tokens)
            self._tokens = torch.cat([self._tokens, new])
            self._rows = self.head.rows(self._tokens)
