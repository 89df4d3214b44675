"""Whether a packed row gives the logits that an untouched model gives for its conversations one by one.

How far two right ways may be apart is the model's own: in bfloat16 every rounding of every layer differs as
soon as one does. So the untouched model is asked twice, the second time with embeddings that are off by one
rounding. Measured, mean over positions: SmolLM2-135M 1.7 % apart, Gemma 3 270M 2.1 % in bfloat16 (1.2e-6 in
float32), whether embeddings are off by half a rounding or two; eager attention and SDPA are 1.6 % and 2.6 %
apart; a packed row and eager attention 1.4 % and 1.7 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vllm_mega.training.compute.packing import Leads, Pack, leads, pack, pool
from vllm_mega.training.recipe.encoding import Encoded

_COMPARED = 64
"""Positions of each conversation, evenly spread: a vocabulary may be large."""
_TIMES = 2.0
"""So many times what rounding does, a packed row may be off ..."""
_FLOOR = 1e-3
"""... or so much, relative to the spread of the logits."""
_CLEAR = 6.0
"""Standard deviations of the difference of two logits: a likeliest token that leads by more must stay it."""


class Conversations(NamedTuple):
    """Two conversations that begin alike, and their packed row."""

    rows: list[list[int]]
    """The tokens of each."""
    shared: int
    """Tokens that they begin with alike."""
    ids: list[int]
    """The tokens of the pool that the row is packed from."""
    leads: Leads
    row: Pack

    @classmethod
    def of(cls, text: Sequence[int], length: int) -> Conversations:
        """One of `length` tokens and one half as long; they share the first quarter of that length.

        Of what they share, one half stands before start.

        Args:
            text: tokens; from its beginning again where it is too short.
            length: at least 8.
        """
        tokens, shared = cycle(text), length // 4
        first = list(islice(tokens, shared))
        rows = [[*first, *islice(tokens, count - shared)] for count in (length, length // 2)]
        one = pool([Encoded(row[:shared], [*row[shared:], 0], [], start=shared // 2) for row in rows])
        return cls(rows, shared, one.ids, leads([one]), pack([one], [0], [0], [[0, 1]]))

    def places(self) -> list[list[int]]:
        """Of each conversation, the positions that are compared."""
        ends = [len(row) - 1 for row in self.rows]
        return [
            torch.linspace(self.shared - 1, end, min(_COMPARED, end - self.shared + 2)).long().tolist()
            for end in ends
        ]

    @property
    def compared(self) -> Tensor:
        """Indices of the same positions among the labels of the packed row: int64 [N]."""
        first, second = (torch.tensor(places) - self.shared + 1 for places in self.places())
        return torch.cat([first, len(self.rows[0]) - self.shared + 1 + second])

    @torch.no_grad()
    def logits(self, model: Any, *, noisy: bool = False) -> Tensor:
        """Of `model` as transformers runs it, at the compared positions: [N, V].

        `noisy`: with embeddings that are off by one rounding.
        """
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(_rounded_otherwise) if noisy else None
        device = embeddings.weight.device
        parts = []
        for row, places in zip(self.rows, self.places(), strict=True):
            kept = torch.tensor(places, device=device)
            ids = torch.tensor([row], device=device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0]
            parts.append(logits if len(logits) == len(kept) else logits[kept])
        if hook is not None:
            hook.remove()
        return torch.cat(parts)


def _rounded_otherwise(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
    """Every number one rounding larger or smaller."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, out.shape, generator=generator).to(out) * 2 - 1
    return out * (1 + signs * torch.finfo(out.dtype).eps)


def disagreement(got: Tensor, wanted: Tensor, noisy: Tensor) -> str:
    """What tells `got` from `wanted` beyond rounding; empty: nothing does.

    Args:
        got: logits of a packed row, [N, V].
        wanted: of the untouched model.
        noisy: of the untouched model with embeddings that are off by one rounding.
    """
    found, usual = _errors(got, wanted), _errors(noisy, wanted)
    allowed = (_TIMES * usual.mean()).clamp_min(_FLOOR)
    most = (_TIMES * usual.max()).clamp_min(_FLOOR)
    if not (found.mean() <= allowed and found.max() <= most):
        return (
            f"off by {found.mean():.2%} on average and {found.max():.2%} at most; expected no more than "
            f"{allowed:.2%} and {most:.2%}"
        )
    best = wanted.float().topk(2, dim=-1).values
    lead = (best[:, 0] - best[:, 1]) / (allowed * wanted.float().std(-1) * 2**0.5)
    lost = (lead > _CLEAR) & (got.argmax(-1) != wanted.argmax(-1))
    return f"another likeliest token at {int(lost.sum())} of {len(lost)} positions" if lost.any() else ""


def _errors(got: Tensor, wanted: Tensor) -> Tensor:
    """Of every position, [N]: the distance of logits [N, V], relative to how far they spread."""
    got, wanted = (logits.float() - logits.float().mean(-1, keepdim=True) for logits in (got, wanted))
    spread: Tensor = wanted.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    distance: Tensor = (got - wanted).norm(dim=-1)
    return distance / spread
