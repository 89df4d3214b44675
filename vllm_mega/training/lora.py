"""Adapters of many memories on one frozen model, trained as one batched low-rank product.

    y[t] = W x[t] + (alpha / rank) * B[j] (A[j] x[t])        j = job of token t

A and B of all J jobs lie side by side, A as [J * R, I] and B as [J * R, O]. So both are one dense product
over all jobs, in which a mask [T, J * R] leaves each token those of its own job: with J * R far below I and
O this costs a few per cent of W x, and nothing is gathered, padded or looped over. They are float32 and enter
the products in the model's type, so that an adapter exported in that type computes what training saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.targets import layer_index, resolved, target_names

Witness = Callable[[Tensor, Tensor], None]
"""Sees input x [T, I] and gradient of the output [T, O] of a layer, and may change A before its gradient."""


class _LoraProduct(torch.autograd.Function):
    """x [T, I], A [J R, I], B [J R, O] -> [T, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, lora: LoraLinear) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = lora.low(x, a)
        ctx.save_for_backward(x, a, b, low)
        ctx.lora = lora
        y: Tensor = lora.base(x)
        return y.addmm_(low, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, a, b, low = ctx.saved_tensors
        lora: LoraLinear = ctx.lora
        if lora.witness is not None:
            lora.witness(x, dy)
            a = lora.A.detach().to(x.dtype)
            low = lora.low(x, a)
        dlow = lora.masked(dy @ b.T)
        dx = (dy @ lora.base.weight).addmm_(dlow, a) if ctx.needs_input_grad[0] else None
        return dx, (dlow.T @ x).float(), (low.T @ dy).float(), None


class LoraLinear(nn.Module):
    """A frozen linear layer and the adapters of J jobs."""

    def __init__(self, base: nn.Linear, jobs: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.jobs = jobs
        self.rank = rank
        device = base.weight.device
        self.A = nn.Parameter(torch.zeros(jobs * rank, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(jobs * rank, base.out_features, device=device))
        self.mask: Tensor | None = None
        """[T, J * R]: alpha / rank where a token meets its own adapter, else 0. None: no adapters."""
        self.witness: Witness | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, I] -> [1, T, O]."""
        if self.mask is None:
            y: Tensor = self.base(x)
            return y
        y = _LoraProduct.apply(x.squeeze(0), self.A, self.B, self)
        return y[None]

    def low(self, x: Tensor, a: Tensor) -> Tensor:
        """A x of every token's own job, scaled: [T, J * R]."""
        return self.masked(x @ a.T)

    def masked(self, low: Tensor) -> Tensor:
        """`low` [T, J * R] in place, with zeros where a token meets another job's adapter."""
        assert self.mask is not None
        return low.mul_(self.mask)

    def of(self, job: int) -> tuple[Tensor, Tensor]:
        """A [R, I] and B [O, R] of one job, views."""
        rows = slice(job * self.rank, (job + 1) * self.rank)
        return self.A[rows], self.B[rows].T


class LoraStack:
    """All adapters on one model."""

    def __init__(self, model: Any, settings: TrainSettings, jobs: int) -> None:
        """Freeze `model` and put `jobs` empty adapters on every linear layer that `settings` chooses.

        Raises:
            ModelError: the model has no such linear layers.
        """
        model.requires_grad_(requires_grad=False)
        self.settings = settings = resolved(settings, model.config.to_dict())
        self.jobs = jobs
        self.modules: dict[str, LoraLinear] = {}
        for name in target_names(model, settings):
            parent, _, last = name.rpartition(".")
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            lora = LoraLinear(base, jobs, settings.rank)
            setattr(model.get_submodule(parent), last, lora)
            self.modules[name] = lora

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that have adapters, ascending."""
        return sorted({layer_index(name) for name in self.modules})

    def parameters(self) -> list[nn.Parameter]:
        return [p for lora in self.modules.values() for p in (lora.A, lora.B)]

    def assign(self, jobs: Tensor | None) -> None:
        """From now on token t belongs to adapter `jobs[t]`, int64 [T]; None: no adapters."""
        mask = None
        if jobs is not None:
            one_hot = nn.functional.one_hot(jobs, self.jobs) * self.settings.scaling
            base = next(iter(self.modules.values())).base
            mask = one_hot.repeat_interleave(self.settings.rank, dim=1).to(base.weight.dtype)
        for lora in self.modules.values():
            lora.mask = mask

    @torch.no_grad()
    def reset(self, job: int, seed: int) -> None:
        """Empty one adapter: A uniform as in PEFT (Kaiming, a = sqrt 5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for lora in self.modules.values():
            a, b = lora.of(job)
            new = torch.empty(a.shape).uniform_(-1.0, 1.0, generator=generator)
            a.copy_(new.div_(math.sqrt(lora.base.in_features)))
            b.zero_()

    @torch.no_grad()
    def load(self, job: int, tensors: Mapping[str, Tensor]) -> None:
        """Put `tensors`, named as PEFT names them, into one adapter."""
        for name, lora in self.modules.items():
            for part, tensor in zip("AB", lora.of(job), strict=True):
                tensor.copy_(tensors[_peft_name(name, part)])

    def tensors(self, job: int) -> dict[str, Tensor]:
        """Copies of all A [R, I] and B [O, R] of one job, float32, named as PEFT names them."""
        return {
            _peft_name(name, part): tensor.detach().cpu().contiguous().clone()
            for name, lora in self.modules.items()
            for part, tensor in zip("AB", lora.of(job), strict=True)
        }


def _peft_name(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part}.weight"
