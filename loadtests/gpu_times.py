"""The part `stock` of `loadtests.gpu`: our kernels' time beside vLLM's own, the base model and the floor.

One replay of a CUDA graph holds the LoRA calls of all 32 layers of Llama-3.1-8B, four linear layers each,
with adapters of rank 16. Every layer has weights and rows of its own, more than any cache holds: they come
from memory, as in a model. Steps of many tokens hold two layers, and count sixteen times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import linear as product

from loadtests import gpu_time, roofline_cost
from loadtests.gpu_check import of_bound, sampled, wanted
from loadtests.gpu_options import Options
from loadtests.gpu_ours import OurStep, table
from loadtests.gpu_report import COULD_NOT, FAIL, LEFT_OUT, PASS, SLOW, Line
from loadtests.gpu_shapes import Adapters, Rows, adapters_of, routing, rows_of
from loadtests.gpu_stock import Stock, StockError, StockStep, load
from loadtests.roofline_data import LOADS, MODELS, Gpu, Load

MODEL = MODELS["llama-3.1-8b"]
LINEARS = MODEL.linears()
RANK, SLOTS = 16, 32
ADAPTERS, WIDTHS = (1, 8, 32), (1, 4, 8)
FEW = 256
"""Tokens up to which a graph holds all layers."""
MANY_LAYERS = 2
BASE_LAYERS = 4
"""Of the base model, which are enough to fill any cache."""
OF_ESTIMATE, OF_STOCK = 1.5, 1.1
"""Above these, times are slow."""
STOCK_ROUNDINGS = 4
"""By which vLLM's own may be off more than ours: it rounds `hidden`, what it adds, and the sum."""


class Case(NamedTuple):
    """A load, and the adapters that its requests mix."""

    load: Load
    adapters: int
    width: int

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.load.name}, {self.adapters} adapters, K={self.width}"


def cases(quick: bool) -> list[Case]:
    """Those that are timed: where more adapters than a step can use are known, the load is the same."""
    loads = [each for each in LOADS if each.name != "prefill 512"]
    if quick:
        few = [Case(each, 8, width) for each in loads for width in (1, 4)]
        return [*few, Case(loads[2], 32, 8)]
    return [
        Case(each, adapters, width)
        for each in loads
        for n, adapters in enumerate(ADAPTERS)
        for width in WIDTHS
        if width <= adapters and (n == 0 or each.adapters(adapters, width) > ADAPTERS[n - 1])
    ]


class Model:
    """Adapters on all layers, with vLLM's own copies of them where it takes part."""

    def __init__(self, ops: Stock | None, device: str) -> None:
        """`ops`: vLLM's kernels; None: without."""
        self.ops, self.device = ops, device
        self.adapters = [
            adapters_of(one, [RANK] * SLOTS, torch.bfloat16, device)
            for _ in range(MODEL.layers)
            for one in LINEARS
        ]
        self.tables = [table(one) for one in self.adapters]
        self.flipped = [one.flipped() for one in self.adapters] if ops else []
        self.weights = [
            torch.empty(sum(one.outs), one.inputs, dtype=torch.bfloat16, device=device).normal_(std=0.02)
            for _ in range(BASE_LAYERS)
            for one in LINEARS
        ]


class Times:
    """Of one load: rows are its own, adapters are the model's. Milliseconds of a step of all layers."""

    def __init__(self, model: Model, load: Load) -> None:
        self._model, self._load = model, load
        self._layers = MODEL.layers if load.tokens <= FEW else MANY_LAYERS
        self._rows = [
            rows_of(one, load.tokens, torch.bfloat16, model.device)
            for _ in range(self._layers)
            for one in LINEARS
        ]

    @property
    def _adapters(self) -> Sequence[Adapters]:
        return self._model.adapters[: len(self._rows)]

    def _all_layers(self, ms: float, layers: int) -> float:
        return ms * MODEL.layers / layers

    def base(self) -> float:
        """The linear layers of the base model alone."""
        layers = min(self._layers, BASE_LAYERS)
        pairs = list(zip(self._rows, self._model.weights[: layers * len(LINEARS)], strict=False))
        return self._all_layers(
            gpu_time.graph_ms(lambda: [product(rows.x, weight) for rows, weight in pairs]), layers
        )

    def ours(self, case: Case) -> float:
        """Our kernels."""
        step = OurStep(self._adapters, self._model.tables[: len(self._rows)], self._load.tokens, case.width)
        step.plan(routing(case.load, case.adapters, case.width))
        return self._all_layers(gpu_time.graph_ms(lambda: step(self._rows)), self._layers)

    def _stock_step(self, ops: Stock, case: Case) -> StockStep:
        flipped = self._model.flipped[: len(self._rows)]
        step = StockStep(ops, self._adapters, case.adapters, flipped)
        slot, _ = routing(case.load, case.adapters, 1)
        step.plan(torch.from_numpy(slot[:, 0]).to(self._model.device))
        return step

    def stock(self, ops: Stock, case: Case) -> float:
        """The kernels of vLLM, one adapter a token; `max_loras` is the number of adapters."""
        step = self._stock_step(ops, case)
        return self._all_layers(gpu_time.graph_ms(lambda: step(self._rows)), self._layers)

    def stock_error(self, ops: Stock, case: Case) -> float:
        """How far vLLM's kernels are from the definition on all linear layers, by what is allowed."""
        before = [Rows(x, y.clone()) for x, y in self._rows]
        self._stock_step(ops, case)(self._rows)
        slot, _ = routing(case.load, case.adapters, 1)
        chosen = sampled(len(slot))
        errors = []
        for one, (x, y), (_, out) in zip(self._adapters[: len(LINEARS)], before, self._rows, strict=False):
            step = slot[chosen], torch.ones(len(chosen), 1).numpy()
            errors.append(of_bound(out[chosen], wanted(one, Rows(x[chosen], y[chosen]), step)))
        return max(errors)


def judged(name: str, figures: dict[str, float]) -> Line:
    """The verdict of one load. Pure.

    Args:
        name: of it.
        figures: milliseconds: ours, floor, estimate, base, and stock where vLLM's own was timed.
    """
    ours, estimate, stock = figures["ours"], figures["estimate"], figures.get("stock")
    slow = ours > OF_ESTIMATE * estimate or (stock is not None and ours > OF_STOCK * stock)
    said = f"{ours:.3f} ms: {ours / figures['floor']:.1f} of the floor, {ours / estimate:.2f} of the estimate"
    said += "" if stock is None else f", {ours / stock:.2f} of vLLM's own"
    said += f", {ours / figures['base']:.0%} of the base model's products"
    return Line("stock", name, SLOW if slow else PASS, said, figures)


def paper(case: Case, gpu: Gpu) -> dict[str, float]:
    """Floor and estimate of all layers, in milliseconds."""
    layer = [
        launch
        for one in LINEARS
        for launch in roofline_cost.ours(one, case.load, case.adapters, RANK, case.width)
    ]
    cost = roofline_cost.total(MODEL.layers * layer, gpu)
    return {"floor": 1e3 * cost.floor, "estimate": 1e3 * cost.estimate}


def run(options: Options) -> Iterator[Line]:
    """What the GPU can do, then every load."""
    copy, speed = gpu_time.copy_speed(), gpu_time.product_speed()
    gpu, launch = gpu_time.this_gpu(copy, speed), gpu_time.launch_seconds()
    said = f"{copy / 1e9:,.0f} GB/s, {speed / 1e12:,.0f} TFLOP/s, {1e6 * launch:.2f} us a launch; by "
    said += f"{gpu.source}: {gpu.bandwidth / 1e9:,.0f} GB/s, {gpu.flops / 1e12:,.0f} TFLOP/s"
    yield Line(
        "stock", "copy, product, launch", PASS, said, {"copy": copy, "product": speed, "launch": launch}
    )
    try:
        ops = load(options.source)
    except StockError as error:
        ops = None
        yield Line("stock", "vLLM's own kernels", COULD_NOT, str(error))
    yield from _loads(options, Model(ops, options.device), gpu)


def _loads(options: Options, model: Model, gpu: Gpu) -> Iterator[Line]:
    chosen = cases(options.quick)
    for one in dict.fromkeys(case.load for case in chosen):
        if options.clock.over:
            yield Line("stock", one.name, LEFT_OUT, "the time was over (--seconds)")
            continue
        times = Times(model, one)
        base = times.base()
        for case in (case for case in chosen if case.load == one):
            yield _timed(options, times, case, {"base": base, **paper(case, gpu)}, model.ops)
        if model.ops:
            yield _checked(model.ops, times, Case(one, 8, 1))


def _timed(options: Options, times: Times, case: Case, figures: dict[str, float], ops: Stock | None) -> Line:
    if options.clock.over:
        return Line("stock", case.name, LEFT_OUT, "the time was over (--seconds)")
    try:
        figures["ours"] = times.ours(case)
        if ops and case.width == 1:
            figures["stock"] = times.stock(ops, case)
    except Exception as failure:  # as in gpu_check
        return Line("stock", case.name, FAIL, f"{type(failure).__name__}: {failure}"[:300])
    return judged(case.name, figures)


def _checked(ops: Stock, times: Times, case: Case) -> Line:
    name = f"vLLM's own equal the definition, {case.name}"
    share = times.stock_error(ops, case) / STOCK_ROUNDINGS
    verdict = PASS if share <= 1 else FAIL
    return Line("stock", name, verdict, f"largest error {share:.2f} of what is allowed", {"of_bound": share})
