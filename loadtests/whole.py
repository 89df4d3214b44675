"""A whole large model on a GPU: python -m loadtests.whole --output out/whole.json

Random weights of the shape of Llama-3.1-8B or Llama-3.2-1B, all layers, in bfloat16; our own trainer trains
invented memories on them, 1, 4 and 8 side by side. Beside it stands what the arithmetic
(`training.estimate`) says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from loadtests.invented import invent
from loadtests.large import LLAMA, Dimensions, write_slice
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.models import resolve_model
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.targets import resolved
from vllm_mega.training.run.estimate import STEPS, Tokens, flops, peak_bytes
from vllm_mega.training.run.outlook import compute_dtype, probe, tokens_of
from vllm_mega.training.run.trainer import Trainer

JOBS = (1, 4, 8)
SMALL = Dimensions("Llama-3.2-1B", {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 5e5,
})  # fmt: skip
"""With a head of its own, which the real one ties to its embeddings."""
MODELS = {model.name.lower(): model for model in (LLAMA, SMALL)}
PEAK = 989e12
"""Multiplications and additions a second of an H100 or H200 in bfloat16, dense, as the data sheet says."""


class Ran(msgspec.Struct, frozen=True):
    """A training of some memories side by side."""

    jobs: int
    seconds: float
    """Of all of it."""
    steps: float
    """Of a memory, mean."""
    step: float
    """Seconds of one, mean without the first two."""
    tensors: float
    """Bytes that torch had given out at most ..."""
    card: float
    """... and bytes that were taken on the card at the end, with what torch keeps and the driver's own."""


class Row(msgspec.Struct, frozen=True):
    """The same beside the arithmetic."""

    jobs: int
    seconds: float
    """Of one memory."""
    steps: float
    step: float
    """Seconds."""
    rest: float
    """Seconds of one memory for all but steps: layers below, turning A, asking at the end."""
    tflop: float
    """Of one memory."""
    of_probe: float
    """Part of the fastest product of the dry run's probe that was reached ..."""
    of_peak: float
    """... and of `PEAK`."""
    tensors: float
    card: float
    estimate: float
    """Bytes that the estimate says."""


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    gpu: str
    model: str
    probe: float
    """Multiplications and additions a second, as the dry run measures them."""
    load: float
    """Seconds until the trainer was ready."""
    rows: list[Row]


def row(model: Dimensions, ran: Ran, tokens: Tokens, speed: float) -> Row:
    """What was measured beside what the arithmetic says. Pure.

    Args:
        model: all of its layers.
        ran: the training.
        tokens: of a memory.
        speed: of the probe.
    """
    settings = resolved(Recipe(jobs=ran.jobs), model.config)
    shape = model.shape(model.full, settings, model.config["vocab_size"])
    did = flops(shape, tokens, settings)
    products, seconds = did.memory(0) + ran.steps * did.step, ran.seconds / ran.jobs
    return Row(
        ran.jobs, seconds, ran.steps, ran.step,
        rest=seconds - ran.steps * ran.step / ran.jobs,
        tflop=products / 1e12,
        of_probe=products / seconds / speed,
        of_peak=products / seconds / PEAK,
        tensors=ran.tensors,
        card=ran.card,
        estimate=peak_bytes(shape, tokens, settings, 2),
    )  # fmt: skip


def train_side_by_side(trainer: Trainer, memories: Sequence[NewMemory]) -> Ran:
    """All of `memories` in one round, measured."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    on_gpu = trainer.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    fits = dict(trainer.fit([memory_job(memory, trainer.recipe) for memory in memories]))
    seconds = time.perf_counter() - started
    hook.remove()
    free, total = torch.cuda.mem_get_info() if on_gpu else (0, 0)
    return Ran(
        len(memories), seconds,
        steps=sum(fit.steps for fit in fits.values()) / len(fits),
        step=(ends[-1] - ends[1]) / (len(ends) - 2),
        tensors=torch.cuda.max_memory_allocated() if on_gpu else 0,
        card=total - free,
    )  # fmt: skip


def measure(model: Dimensions, base: Path, device: str, console: Console) -> Result:
    """Write the checkpoint, load it, train.

    Args:
        model: whose shape it is.
        base: folder of a model, whose tokenizer is taken.
        device: of torch.
        console: is told what was measured.
    """
    memories = invent(max(JOBS), seed=0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="vllm-mega-whole-") as root:
        folder = Path(root) / "model"
        words = model.config["vocab_size"]
        write_slice(model, base, folder, model.config["num_hidden_layers"], words, device)
        speed = probe(compute_dtype(folder, device), device, 2.0)
        started = time.perf_counter()
        trainer = Trainer(folder, Recipe(max_steps=STEPS, jobs=max(JOBS)), device=device)
        load = time.perf_counter() - started
        console.print(f"{model.name}: {speed / 1e12:.0f} TFLOP/s, ready after {load:.0f} s")
        train_side_by_side(trainer, memories[:1])  # what is made at the first call is made now
        for jobs in JOBS:
            ran = train_side_by_side(trainer, memories[:jobs])
            tokens = tokens_of(memories[:jobs], trainer.chat, trainer.recipe)
            rows.append(row(model, ran, tokens, speed))
            console.print(rows[-1])
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    return Result(this_machine("bfloat16"), gpu, model.name, speed, load, rows)


def table(result: Result) -> Table:
    """A line for each number of memories side by side."""
    shown = Table(
        "side by side", "s a memory", "steps", "ms a step", "rest, s a memory", "TFLOP a memory",
        "share of the probe", "share of 989 TFLOP/s", "GiB: tensors, card, estimate",
        title=f"{result.model} on {result.gpu}, {result.probe / 1e12:.0f} TFLOP/s",
    )  # fmt: skip
    for r in result.rows:
        shown.add_row(
            str(r.jobs), f"{r.seconds:.2f}", f"{r.steps:.1f}", f"{1e3 * r.step:.0f}", f"{r.rest:.2f}",
            f"{r.tflop:.0f}", f"{r.of_probe:.0%}", f"{r.of_peak:.0%}",
            ", ".join(f"{size / 2**30:.1f}" for size in (r.tensors, r.card, r.estimate)),
        )  # fmt: skip
    return shown


def on_gpu(args: argparse.Namespace, console: Console) -> Result:
    """Measure the shape of --model.

    Raises:
        ConfigError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU here; for slices on a CPU: python -m loadtests.large")
    return measure(MODELS[args.model], args.tokenizer or resolve_model(), "cuda", console)


def options(add: Add) -> None:
    """What there is beside --output."""
    shape = "whose shape it is (default: %(default)s)"
    add("--model", choices=MODELS, default=LLAMA.name.lower(), help=shape)
    add("--tokenizer", type=Path, help="folder of a model, whose tokenizer is taken")


PROGRAM = Program(
    "whole", on_gpu, table,
    "Train on a whole large model with random weights, on a GPU.",
    "About a minute on an H200; 32 GiB of its memory, 16 GB in the folder for temporary files.",
    options,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
