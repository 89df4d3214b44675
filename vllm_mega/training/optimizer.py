"""How far a step moves the adapters: as a part of what their layers compute, whatever the model."""

from __future__ import annotations

import torch

from vllm_mega.training.lora import LoraStack

BETAS = (0.8, 0.9)
"""Of Adam: with so few steps, averages over more of them would still know the beginning."""
COLUMNS = 70.0
"""How much further A moves than B, in units of the layer (see `alignment`). A x starts at the size 1, and a
step of 0.01 moves it by at most 0.7: from 35 to 140 nothing was better, on two models."""
EPSILON = 1e-12
"""Gradients in units are small where units are."""


def adam(stack: LoraStack, rate: float) -> torch.optim.Optimizer:
    """Adam for all adapters of `stack`; clears the gradients that the round before has left."""
    modules = stack.modules.values()
    optimizer = torch.optim.Adam(
        [
            {"params": [lora.A for lora in modules], "lr": rate * COLUMNS},
            {"params": [lora.B for lora in modules], "lr": rate},
        ],
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )
    optimizer.zero_grad()
    return optimizer
