"""PEFT's adapters, switched on at a token: what a memory's adapter is when it is served."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def switched(model: Any, start: int) -> Any:
    """`model`, a PeftModel, whose adapter does nothing to tokens before `start` of what it is given.

    Every call must be given whole conversations: `generate` with `use_cache=False`.
    """

    def silence(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
        return out.index_fill(1, out.new_tensor(range(start)).long(), 0.0)

    last = [module for name, module in model.named_modules() if name.endswith(".lora_B.default")]
    assert last, "no adapter of PEFT's"
    for module in last:
        module.register_forward_hook(silence)
    return model
