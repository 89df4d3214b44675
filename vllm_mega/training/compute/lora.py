"""Adapters of many memories on one frozen model, trained as one batched low-rank product.

    y[t] = W x[t] + (alpha / rank) * B[j] (A[j] x[t])        j = job of token t

A and B of all J jobs lie side by side, A as [J * R, I] and B as [J * R, O]. So both are one dense product
over all jobs, in which a mask [T, J * R] leaves each token those of its own job: with J * R far below I and
O this costs a few per cent of W x, and nothing is gathered, padded or looped over. They are float32 and enter
the products in the model's type, so that an adapter exported in that type computes what training saw.

What the optimizer moves is A and B in the units of their layer, so that one step size fits every model (see
`alignment`, which sets the units of a job when its first gradient is known):

    A[j][:, i] = a[j][:, i] * columns[i] * reading[j]          columns[i] = norm of W[:, i]
    B[j]       = b[j] * writing[j]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import layer_index, resolved, target_names

_TINY = torch.finfo(torch.float32).tiny
PEFT_PREFIX = "base_model.model."

Witness = Callable[[Tensor, Tensor], None]
"""Sees input x [T, I] and gradient of the output [T, O] of a layer, and may change A before its gradient."""


class _LoraProduct(torch.autograd.Function):
    """x [T, I], a [J R, I], b [J R, O] -> [T, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, lora: LoraLinear) -> Tensor:
        a, b = lora.real_a().to(x.dtype), lora.real_b().to(x.dtype)
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
            a = lora.real_a().to(x.dtype)
            low = lora.low(x, a)
        dlow = lora.masked(dy @ b.T)
        dx = (dy @ lora.base.weight).addmm_(dlow, a) if ctx.needs_input_grad[0] else None
        da = (dlow.T @ x).float().mul_(lora.columns).mul_(lora.reading)
        return dx, da, (low.T @ dy).float().mul_(lora.writing), None


class LoraLinear(nn.Module):
    """A frozen linear layer and the adapters of J jobs."""

    columns: Tensor
    """float32 [I]: the norms of W's columns."""
    reading: Tensor
    """float32 [J * R, 1]: the unit of each job's A, beside `columns`."""
    writing: Tensor
    """float32 [J * R, 1]: the unit of each job's B."""

    def __init__(self, base: nn.Linear, jobs: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.jobs = jobs
        self.rank = rank
        device = base.weight.device
        self.A = nn.Parameter(torch.zeros(jobs * rank, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(jobs * rank, base.out_features, device=device))
        self.register_buffer("columns", base.weight.detach().float().norm(dim=0), persistent=False)
        for unit in ("reading", "writing"):
            self.register_buffer(unit, torch.ones(jobs * rank, 1, device=device), persistent=False)
        self.jobs_of: Tensor | None = None
        """int64 [T]: the job of every token that comes, ascending. None: no adapters."""
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

    def real_a(self) -> Tensor:
        """A of all jobs as it multiplies x: float32 [J * R, I]."""
        return self.A.detach() * self.columns * self.reading

    def real_b(self) -> Tensor:
        """B of all jobs, transposed: float32 [J * R, O]."""
        return self.B.detach() * self.writing

    def of(self, job: int) -> tuple[Tensor, Tensor]:
        """A [R, I] and B [O, R] of one job, as they are exported."""
        rows = self.rows(job)
        return self.real_a()[rows], self.real_b()[rows].T

    @torch.no_grad()
    def put(self, job: int, a: Tensor, b: Tensor) -> None:
        """A [R, I] and B [O, R] become those of one job; its units stay."""
        rows = self.rows(job)
        self.A[rows] = a / (self.columns * self.reading[rows]).clamp_min(_TINY)
        self.B[rows] = b.T / self.writing[rows].clamp_min(_TINY)

    def rows(self, job: int) -> slice:
        """Where one job stands in A and B."""
        return slice(job * self.rank, (job + 1) * self.rank)


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
        self.at_labels: frozenset[nn.Module] = frozenset()
        """Linear layers that labelled tokens alone are given to (see `SplitModel.at_labels`)."""
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

    def assign(self, jobs: Tensor | None, labelled: Tensor | None = None) -> None:
        """From now on token t belongs to adapter `jobs[t]`, int64 [T]; None: no adapters.

        `labelled`: int64 [L], the tokens that `at_labels` are given; None: all.
        """
        whole = self._assignment(jobs)
        some = whole if jobs is None or labelled is None else self._assignment(jobs[labelled])
        for lora in self.modules.values():
            lora.jobs_of, lora.mask = some if lora in self.at_labels else whole

    def _assignment(self, jobs: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if jobs is None:
            return None, None
        one_hot = nn.functional.one_hot(jobs, self.jobs) * self.settings.scaling
        base = next(iter(self.modules.values())).base
        return jobs, one_hot.repeat_interleave(self.settings.rank, dim=1).to(base.weight.dtype)

    @torch.no_grad()
    def reset(self, job: int, seed: int) -> None:
        """Empty one adapter: A uniform as in PEFT (Kaiming, a = sqrt 5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for lora in self.modules.values():
            a, b = lora.of(job)
            new = torch.empty(a.shape).uniform_(-1.0, 1.0, generator=generator)
            lora.put(job, new.div_(math.sqrt(lora.base.in_features)).to(a.device), torch.zeros_like(b))

    @torch.no_grad()
    def load(self, job: int, tensors: Mapping[str, Tensor]) -> None:
        """Put `tensors`, named as PEFT names them, into one adapter."""
        for name, lora in self.modules.items():
            lora.put(job, *(tensors[peft_name(name, part)].to(lora.A.device) for part in "AB"))

    def tensors(self, job: int) -> dict[str, Tensor]:
        """Copies of all A [R, I] and B [O, R] of one job, float32, named as PEFT names them."""
        return {
            peft_name(name, part): tensor.cpu().contiguous()
            for name, lora in self.modules.items()
            for part, tensor in zip("AB", lora.of(job), strict=True)
        }


def peft_name(module: str, part: str) -> str:
    """The name of A or B of `module` in PEFT's files."""
    return f"{PEFT_PREFIX}{module}.lora_{part}.weight"
