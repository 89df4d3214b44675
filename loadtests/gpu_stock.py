"""vLLM's own LoRA kernels, out of an installed vLLM or out of its source files alone."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch

from loadtests.gpu_shapes import Adapters, Rows

OPS = "vllm.lora.ops.triton_ops"
FILES = ("lora_shrink_op", "lora_expand_op", "lora_kernel_metadata", "kernel_utils", "utils")
"""Modules of OPS that are read; nothing else of vLLM is."""


class StockError(Exception):
    """vLLM's kernels cannot be had."""


class Stock(NamedTuple):
    """vLLM's own LoRA kernels, however they were loaded."""

    shrink: Callable[..., None]
    expand: Callable[..., None]
    meta: Any
    """Its class LoRAKernelMeta."""


def load(source: Path | None) -> Stock:
    """From `source`, a folder that holds vLLM's package; None: from the installed one.

    Raises:
        StockError: there is none, or it is not as expected.
    """
    if source is not None:
        return from_source(source)
    if find_spec("vllm") is None:
        raise StockError("vLLM is not installed; give a folder with its source files (--vllm-source)")
    return _ops()


def from_source(source: Path) -> Stock:
    """The same with stand-ins for what these few files import of the rest.

    Raises:
        StockError: they are not there, or import something else.
    """
    folder = source / Path(*OPS.split("."))
    missing = [name for name in FILES if not (folder / f"{name}.py").is_file()]
    if missing:
        raise StockError(f"{folder} has no {', '.join(missing)}; it must be a folder with vLLM's package")
    with _stand_ins(folder):
        return _ops()


def _ops() -> Stock:
    try:
        shrink, expand, meta = (importlib.import_module(f"{OPS}.{name}") for name in FILES[:3])
        return Stock(shrink.lora_shrink, expand.lora_expand, meta.LoRAKernelMeta)
    except (ImportError, AttributeError) as error:
        raise StockError(f"vLLM's LoRA kernels are not as in 0.32 or 0.33: {error}") from error


@contextlib.contextmanager
def _stand_ins(folder: Path) -> Iterator[None]:
    """Modules in place of vLLM's, for as long as its files are imported."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "vllm"}
    try:
        sys.modules.update(_modules(folder))
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]
        sys.modules.update(before)


def _modules(folder: Path) -> dict[str, ModuleType]:
    import triton  # type: ignore[import-untyped]
    import triton.language as tl  # type: ignore[import-untyped]

    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.envs": {
            "VLLM_BATCH_INVARIANT": False,
            "VLLM_TUNED_CONFIG_FOLDER": None,
            "VLLM_LORA_DISABLE_PDL": False,
            "VLLM_LORA_ENABLE_DUAL_STREAM": False,
        },
        "vllm.logger": {"init_logger": _logger},
        "vllm.platforms": {"current_platform": _platform()},
        "vllm.triton_utils": {"triton": triton, "tl": tl},
        "vllm.utils": {},
        "vllm.utils.math_utils": {"next_power_of_2": triton.next_power_of_2},
        "vllm.utils.torch_utils": {"async_tensor_h2d": _to_device, "direct_register_custom_op": _no_op},
        "vllm.lora": {},
        "vllm.lora.ops": {},
        OPS: {"__path__": [str(folder)]},  # without its __init__, which imports much more
    }
    return {name: _module(name, has) for name, has in contents.items()}


def _module(name: str, contents: dict[str, Any]) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update({"__path__": []} | contents)
    return made


def _logger(name: str) -> Any:
    logger: Any = logging.getLogger(name)
    logger.warning_once, logger.info_once = logger.debug, logger.debug
    return logger


def _platform() -> SimpleNamespace:
    def capability() -> int:
        major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
        return 10 * major + minor

    return SimpleNamespace(
        is_cuda=torch.cuda.is_available,
        has_device_capability=lambda least: capability() >= least,
        is_device_capability=lambda exactly: capability() == exactly,
    )


def _to_device(data: list[int], device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(data, dtype=dtype).to(device)


def _no_op(**_: Any) -> None:
    raise AttributeError("the functions themselves are wanted, no custom ops")


class StockStep:
    """All layers with vLLM's kernels: one adapter a token, of weight 1."""

    def __init__(
        self, ops: Stock, layers: Sequence[Adapters], slots: int, flipped: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        """`slots`: that vLLM is told of (`max_loras`). `flipped`: B of `layers` as vLLM has it."""
        self._ops, self._slots = ops, slots
        self._layers = [
            ([a[:slots] for a in one.a], [b[:slots] for b in bs])
            for one, bs in zip(layers, flipped, strict=True)
        ]

    def plan(self, slot: torch.Tensor) -> None:
        """Take over a step: slot [T] on the device."""
        self._meta = self._ops.meta.make(self._slots, len(slot), slot.device)
        self._meta.prepare_tensors(slot)

    def __call__(self, rows: Sequence[Rows]) -> None:
        """Add to y, as vLLM's `PunicaWrapperGPU.add_lora_linear` does."""
        for (a, b), (x, y) in zip(self._layers, rows, strict=True):
            hidden = torch.empty(len(a), len(x), a[0].shape[1], dtype=torch.float32, device=x.device)
            said = self._meta.meta_args(len(x), False)
            self._ops.shrink(x, a, hidden, *said, 1.0)
            self._ops.expand(hidden, b, y, *said, add_inputs=True)
