"""How far a step moves the adapters: as a part of what their layers compute, whatever the model."""

from __future__ import annotations

import torch

from vllm_mega.training.compute.lora import LoraStack
from vllm_mega.training.recipe.recipe import Recipe


def adam(stack: LoraStack, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam for all adapters of `stack`; clears the gradients that the round before has left."""
    rate, rules = recipe.learning_rate, recipe.optimizer
    modules = stack.modules.values()
    optimizer = torch.optim.Adam(
        [
            {"params": [lora.A for lora in modules], "lr": rate * rules.columns},
            {"params": [lora.B for lora in modules], "lr": rate},
        ],
        betas=rules.betas,
        eps=rules.epsilon,
        fused=True,
    )
    optimizer.zero_grad()
    return optimizer
