"""The frozen model, cut in two: layers below all adapters, which run once, and the layers above."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from vllm_mega.errors import ModelError
from vllm_mega.training import attention
from vllm_mega.training.encoding import Encoded
from vllm_mega.training.packing import Pack, pack, pool

AttentionInterface.register(attention.NAME, attention.packed_attention)
AttentionMaskInterface.register(attention.NAME, lambda *_, **__: None)

TOLERANCE = 0.05
"""Of logits, relative to their norm: bfloat16 on other paths differs by one or two per cent."""


class _Given(nn.Module):
    """Stands for a layer: whatever comes in, the given hidden states come out (None: what came in)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.seen: Tensor | None = None

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        self.seen = hidden
        return hidden if self.hidden is None else self.hidden


def untouched_copy(model: nn.Module) -> Any:
    """A second model with the same weights (not copies): what is put into one, the other lacks."""
    return copy.deepcopy(model, memo={id(p): p for p in model.parameters()})


class SplitModel:
    """A causal language model, run on packed rows, below and above layer `cut`."""

    def __init__(self, model: Any, cut: int) -> None:
        """`model` runs packed rows only from here on.

        Raises:
            ModelError: it has no list of layers, or computes other logits for packed rows than for single
                ones: it does something that packed rows do not.
        """
        self.model = model
        self.cut = cut
        self.body: Any = model.base_model
        self.head: nn.Linear = model.get_output_embeddings()
        layers = getattr(self.body, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(
                f"{type(model).__name__} has no list of layers; expected a decoder such as Llama"
            )
        self.layers = layers
        self._check()
        size = [sum(p.numel() for p in layer.parameters() if not p.requires_grad) for layer in layers]
        self._below, self._above = sum(size[:cut]), sum(size[cut:])

    @torch.no_grad()
    def below(self, ids: Tensor, positions: Tensor, segments: Any) -> Tensor:
        """Hidden states that enter layer `cut`: [T, D]."""
        with self._stubs(range(self.cut, len(self.layers))) as stubs:
            self._run({"input_ids": ids[None]}, positions, segments)
            seen = stubs[0].seen
        assert seen is not None
        return seen.squeeze(0)

    def above(self, hidden: Tensor, positions: Tensor, segments: Any) -> Tensor:
        """From hidden states that enter layer `cut`, [T, D], to those that enter the head."""
        with self._stubs(range(self.cut)) as stubs:
            if stubs:  # the model may scale what it takes for embeddings
                stubs[0].hidden = hidden[None]
            return self._run({"inputs_embeds": hidden[None]}, positions, segments).squeeze(0)

    def flops_below(self, tokens: int) -> float:
        """Multiplications and additions of `below`, linear layers alone."""
        return 2.0 * tokens * self._below

    def flops_above(self, tokens: int) -> float:
        """Those of `above` and its backward pass: frozen weights need no gradients."""
        return 4.0 * tokens * self._above

    def _run(self, inputs: dict[str, Tensor], positions: Tensor, segments: Any) -> Tensor:
        out = self.body(**inputs, position_ids=positions[None], use_cache=False, packed=segments)
        hidden: Tensor = out.last_hidden_state
        return hidden

    @contextmanager
    def _stubs(self, indices: range) -> Iterator[list[_Given]]:
        """The layers at `indices` replaced while the context lasts."""
        kept = [self.layers[i] for i in indices]
        stubs = [_Given() for _ in indices]
        try:
            for i, stub in zip(indices, stubs, strict=True):
                self.layers[i] = stub
            yield stubs
        finally:
            for i, layer in zip(indices, kept, strict=True):
                self.layers[i] = layer

    @torch.no_grad()
    def _check(self) -> None:
        """Two examples in a packed row, and each of them as transformers runs it."""
        device, start, ends = self.head.weight.device, range(5, 10), (range(10, 14), range(14, 17))
        rows = [[n % self.head.out_features for n in (*start, *end)] for end in ends]
        ids = [torch.tensor([row], device=device) for row in rows]
        wanted = torch.cat([self.model(input_ids=row).logits[0, len(start) - 1 :] for row in ids])
        self.model.set_attn_implementation(attention.NAME)
        one = pool([Encoded(row[: len(start)], [*row[len(start) :], 0], []) for row in rows])
        row: Pack = pack([one], [0], [0], [[0, 1]]).to(device)
        hidden = self.below(torch.tensor(one.ids, device=device), row.positions, row.segments)
        got = self.head(self.above(hidden, row.positions, row.segments)[row.labelled])
        if not (got - wanted).norm() <= TOLERANCE * wanted.norm():
            raise ModelError(
                f"{type(self.model).__name__} computes other logits for packed rows than for single ones, so "
                "memories cannot be trained on it. Train adapters with PEFT and add them: vllm-mega bank add"
            )
