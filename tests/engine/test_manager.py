"""What an engine reserves and reads for adapters: nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.adapters import Adapters
from tests.engine.conftest import ENGINE_ARGS, SLOTS, Engine

pytestmark = pytest.mark.engine


def test_layers_were_made_with_the_smallest_stacks_and_have_none_now(engine: Engine):
    manager = engine.manager._adapter_manager
    assert (manager.lora_slots, manager.lora_config.max_lora_rank) == (SLOTS, ENGINE_ARGS["max_lora_rank"])
    for module in manager.modules.values():
        assert (module.lora_config.max_loras, module.lora_config.max_lora_rank) == (1, 1)
        assert module.lora_a_stacked == module.lora_b_stacked == ()


def test_nothing_that_is_read_is_pinned_before_it_is_packed(
    engine: Engine, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
):
    pinned: list[torch.Tensor] = []

    def pin_memory(self: torch.Tensor, *_: Any) -> torch.Tensor:
        pinned.append(self)
        return self

    for module in ("lora_model", "lora_weights", "model_manager"):
        monkeypatch.setattr(f"vllm.lora.{module}.PIN_MEMORY", True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    for number in (0, 2):  # of the MLP; of attention, too
        (component,) = adapters.mixture((number, 1.0)).components
        assert engine.manager._read(component).nbytes > 0
    assert pinned == []


def test_a_scaled_weight_beyond_the_type_is_refused_by_the_worker(engine: Engine, adapters: Adapters):
    from vllm.lora.request import LoRARequest

    from vllm_mega.errors import AdapterError

    manager = engine.manager
    read = manager._load_adapter(LoRARequest("large", 9, str(adapters.folders[0])))
    next(iter(read.loras.values())).lora_b.fill_(torch.finfo(torch.float32).max)
    with pytest.raises(AdapterError, match="scaling included"):
        manager._adapter_manager.pack(read, "large")
