"""What the trainer is compared with: the loop that anybody writes with PEFT."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from tqdm import tqdm

STEPS = 30
ROWS = 7
TOKENS = 88
RANK = 16


class PlainLoop(msgspec.Struct, frozen=True):
    """One training of STEPS steps of ROWS x TOKENS tokens; adapters of RANK on all linear layers."""

    dtype: str
    """Of the base model; PEFT keeps the adapters in float32."""
    seconds: float
    """Of all steps but one that went before: it compiles kernels and reads the weights."""
    first_step_seconds: float
    load_seconds: float
    loss: float
    """Of the last step."""


def plain_loop(path: Path, dtype: torch.dtype | None) -> PlainLoop:
    """Train once. `dtype` None: the checkpoint's own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    started = time.perf_counter()
    base: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or "auto")
    name = str(base.dtype).removeprefix("torch.")
    model = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.randint(base.config.vocab_size, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    load = time.perf_counter() - started

    def step() -> float:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    started = time.perf_counter()
    for _ in tqdm(range(STEPS), desc=f"plain PEFT, {name}", unit=" steps", leave=False):
        loss = step()
    return PlainLoop(name, time.perf_counter() - started, first, load, loss)
